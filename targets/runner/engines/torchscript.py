"""TorchScript archives, by torch."""

from __future__ import annotations

import io
import json
from typing import Any, Dict, List, Optional, Tuple, Union

from . import ENGINES, Engine, Model, ModelRefused, Operator, Spec, chosen

SPECS_FILE = "edgeprune.inputs.json"
"""Extra file of the archive that lists the inputs' shapes and dtypes; TorchScript itself forgets them."""

_PROFILE_RUNS = 20
_OPERATORS = ("aten", "prepacked", "mkldnn", "mkldnn_prepacked", "quantized")


@ENGINES.register("torchscript")
class TorchScriptEngine(Engine):
    """``torch.jit.load``, then ``freeze`` and ``optimize_for_inference`` where they work."""

    packages = ("torch",)

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
            module = torch.jit.load(file, map_location="cpu", _extra_files=extra).eval()
        except (RuntimeError, ValueError) as error:
            raise ModelRefused(str(error).splitlines()[0]) from error
        if extra[SPECS_FILE]:
            specs = chosen(json.loads(extra[SPECS_FILE]), specs)
        if not specs:
            raise ModelRefused("the file does not say its inputs' shapes, and none were given (such as --input 1x3x224x224)")
        return TorchScriptModel(module, specs)


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
