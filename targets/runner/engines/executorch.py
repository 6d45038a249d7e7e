"""ExecuTorch programs (``.pte``), by the runtime's Python bindings."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple, Union

from . import ENGINES, Engine, Model, ModelRefused, Spec, chosen

# torch's ScalarType numbers (c10/core/ScalarType.h)
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_BOOL = 11


@ENGINES.register("executorch")
class ExecutorchEngine(Engine):
    """The program's method ``forward``; the delegates are those that the program was lowered to."""

    packages = ("executorch",)

    def runtime(self) -> Tuple[str, str]:
        from importlib import metadata

        import executorch.runtime  # noqa: F401

        return "executorch", metadata.version("executorch")

    def load(self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]]) -> Model:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)
        try:
            program = Runtime.get().load_program(source)
            model = ExecutorchModel(program, program.load_method("forward"))
        except (RuntimeError, ValueError) as error:
            raise ModelRefused(str(error)) from error
        if chosen(model.specs, specs) != model.specs:
            raise ModelRefused(f"the program is for inputs of {model.specs} alone, and {specs} was asked for")
        return model


class ExecutorchModel(Model):
    """One loaded method."""

    def __init__(self, program: Any, method: Any) -> None:
        self._program, self._method = program, method
        metas = [method.metadata.input_tensor_meta(index) for index in range(method.metadata.num_inputs())]
        self.specs = [{"shape": list(meta.sizes()), "dtype": self._dtype(meta.dtype())} for meta in metas]
        self._inputs: List[Any] = []
        self._result: Any = None

    @staticmethod
    def _dtype(number: int) -> str:
        if number == _BOOL:
            return "bool"
        if not 0 <= number < len(_DTYPES):
            raise ValueError(f"an input is of the type number {number}, which numpy has not")
        return _DTYPES[number]

    def set_inputs(self, arrays: List[Any]) -> None:
        import torch

        self._check(arrays)
        self._inputs = [torch.from_numpy(array.copy()) for array in arrays]

    def run(self) -> None:
        self._result = self._method.execute(self._inputs)

    def outputs(self) -> List[Any]:
        return [value.detach().numpy() for value in self._result]
