"""TorchScript archives, by torch."""

from __future__ import annotations

import io
import json
from typing import Any, Dict, List, Optional, Tuple, Union

from ..accelerators import CPU, GPU, delegation, missing, names, split
from . import ENGINES, Engine, Model, ModelRefused, Operator, Spec, chosen

SPECS_FILE = "edgeprune.inputs.json"
"""Extra file of the archive that lists the inputs' shapes and dtypes; TorchScript itself forgets them."""

_PROFILE_RUNS = 20
_OPERATORS = ("aten", "prepacked", "mkldnn", "mkldnn_prepacked", "quantized")


@ENGINES.register("torchscript")
class TorchScriptEngine(Engine):
    """``torch.jit.load``, then ``freeze`` and ``optimize_for_inference`` where they work; on ``cuda`` or ``cuda:1`` too."""

    packages = ("torch",)
    _device = "cpu"

    def use(self, accelerator: str) -> None:
        import torch

        base = split(accelerator)[0]
        found = self.accelerators()
        wanted = "cuda:0" if base in (GPU, "cuda") else base
        if accelerator != CPU and wanted not in names(found):
            raise missing(accelerator, "torch", names(found))
        self.accelerator, self._device = accelerator, "cpu" if accelerator == CPU else wanted
        if accelerator != CPU:
            self.adapter = torch.cuda.get_device_name(wanted)

    def accelerators(self) -> List[Dict[str, str]]:
        import torch

        found = []
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            about = torch.cuda.get_device_properties(index)
            what = f"{about.name}, compute capability {about.major}.{about.minor}, {about.total_memory >> 20} MiB"
            found.append({"name": f"cuda:{index}", "what": what})
        return found

    def runtime(self) -> Tuple[str, str]:
        from importlib import metadata

        import torch  # noqa: F401

        return "torch", metadata.version("torch")

    def load(self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]]) -> Model:
        import torch

        torch.set_num_threads(threads)
        extra = {SPECS_FILE: ""}
        try:
            file = source if isinstance(source, str) else io.BytesIO(source)
            module = torch.jit.load(file, map_location=self._device, _extra_files=extra).eval()
        except (RuntimeError, ValueError) as error:
            raise ModelRefused(str(error).splitlines()[0]) from error
        if extra[SPECS_FILE]:
            specs = chosen(json.loads(extra[SPECS_FILE]), specs)
        if not specs:
            raise ModelRefused("the file does not say its inputs' shapes, and none were given (such as --input 1x3x224x224)")
        return TorchScriptModel(module, specs) if self._device == "cpu" else CudaModel(module, specs, self._device)


class TorchScriptModel(Model):
    """One module.  Optimising is tried on a run; where it fails, the module runs as it was saved."""

    def __init__(self, module: Any, specs: List[Spec]) -> None:
        self.specs = specs
        self._module = module
        self._weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
        self._inputs: List[Any] = []
        self._result: Any = None
        self._plain = True

    def set_inputs(self, arrays: List[Any]) -> None:
        import torch

        self._check(arrays)
        self._inputs = [torch.from_numpy(array.copy()) for array in arrays]
        if self._plain:
            self._module = self._optimised(torch)
            self._plain = False

    def _optimised(self, torch: Any) -> Any:
        try:
            with torch.inference_mode():
                module = torch.jit.optimize_for_inference(torch.jit.freeze(self._module))
                module(*self._inputs)
            return module
        except (RuntimeError, AttributeError):
            return self._module

    def run(self) -> None:
        import torch

        with torch.inference_mode():
            self._result = self._module(*self._inputs)

    def outputs(self) -> List[Any]:
        def flat(value: Any) -> List[Any]:
            if isinstance(value, dict):
                value = list(value.values())
            if isinstance(value, (list, tuple)):
                return [tensor for item in value for tensor in flat(item)]
            return [value.detach().numpy()]

        return flat(self._result)

    def sizes(self) -> Dict[str, Optional[int]]:
        return {"weights_bytes": self._weights, "arena_bytes": None}

    def profile(self) -> Optional[List[Operator]]:
        """By torch's profiler: the operators' own time, summed by kind, since the optimised module's parts have no names."""
        from torch.autograd.profiler import profile

        with profile() as found:
            for _ in range(_PROFILE_RUNS):
                self.run()
        own = [(event.key, event.self_cpu_time_total) for event in found.key_averages()]
        return [{"name": name, "type": name, "ms": us / 1e3 / _PROFILE_RUNS} for name, us in own if name.split("::")[0] in _OPERATORS]


class CudaModel(TorchScriptModel):
    """A module on an NVIDIA GPU: a run ends when the GPU is idle again.  Inputs are put there before, outputs fetched after."""

    def __init__(self, module: Any, specs: List[Spec], device: str) -> None:
        super().__init__(module, specs)
        self._device = device

    def set_inputs(self, arrays: List[Any]) -> None:
        import torch

        self._check(arrays)
        self._inputs = [torch.from_numpy(array.copy()).to(self._device) for array in arrays]
        if self._plain:
            self._module = self._optimised(torch)
            self._plain = False
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def run(self) -> None:
        import torch

        super().run()
        torch.cuda.synchronize(self._device)

    def outputs(self) -> List[Any]:
        import torch

        def moved(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.cpu()
            if isinstance(value, dict):
                return {key: moved(item) for key, item in value.items()}
            return [moved(item) for item in value]

        self._result = moved(self._result)
        return super().outputs()

    def memory(self) -> Optional[Tuple[int, int]]:
        """What the allocator held at the most; the process's own peak holds CUDA's libraries, too."""
        import torch

        from ..memory import peak_bytes

        return int(torch.cuda.max_memory_allocated(self._device)), peak_bytes()

    def delegation(self) -> Optional[Dict[str, Any]]:
        """All of it: a module whose tensors are on two devices fails."""
        return delegation(1, [])
