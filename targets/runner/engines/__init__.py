"""Engines: one file for each runtime that can execute a model."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple, Union

from ..accelerators import CPU, AcceleratorMissing, missing
from ..registry import Registry

Spec = Dict[str, Any]
"""Shape and dtype of a tensor: ``{"shape": [1, 3, 32, 32], "dtype": "float32"}``."""


Operator = Dict[str, Any]
"""One operator's part of an inference: ``{"name": "conv_1", "type": "CONV_2D", "ms": 0.12}``, of one inference on average."""


class ModelRefused(Exception):
    """The runtime cannot load this model, or not with these inputs."""


class Model:
    """A loaded model, ready to run."""

    specs: List[Spec]
    own_window = False
    """Whether the runtime times itself, in a process of its own: then :meth:`window` is asked for figures, and :meth:`run` does nothing."""
    told_ns: Optional[Tuple[int, int]] = None
    """Times of loading and of the first inference, where the runtime reports them itself."""
    note = ""
    """What a reader of the figures has to know."""

    def set_inputs(self, arrays: List[Any]) -> None:
        """Put one numpy array into each input; ``ModelRefused`` when count, shape or dtype do not fit."""
        raise NotImplementedError

    def run(self) -> None:
        """One inference on the inputs that were set."""
        raise NotImplementedError

    def outputs(self) -> List[Any]:
        """The numpy arrays that the last run made."""
        raise NotImplementedError

    def window(self, time_ns: int) -> List[int]:
        """Where ``own_window``: figures in ns, each for one inference, of about ``time_ns`` of running."""
        raise NotImplementedError

    def memory(self) -> Optional[Tuple[int, int]]:
        """Bytes of the model, and of its whole process, at the peak, where that is another process than this; else None."""
        return None

    def sizes(self) -> Dict[str, Optional[int]]:
        """``weights_bytes``: constants of the model; ``arena_bytes``: what the runtime planned for activations.  None: not reported."""
        return {"weights_bytes": None, "arena_bytes": None}

    def delegation(self) -> Optional[Dict[str, Any]]:
        """What the accelerator took, as :func:`..accelerators.delegation` makes it; None on the processor."""
        return None

    def profile(self) -> Optional[List[Operator]]:
        """Time of each operator by the runtime's own profiler, in the order of execution; None where it has none."""
        return None

    def _check(self, arrays: List[Any]) -> None:
        given = [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in arrays]
        if given != self.specs:
            raise ModelRefused(f"the model's inputs are {self.specs}, and {given} was given")


class Engine:
    """A runtime.  Importing it is left to :meth:`runtime` and :meth:`load`."""

    packages: Tuple[str, ...] = ()
    accelerator = CPU
    adapter = ""
    """Which device or library the accelerator is, once :meth:`use` found it."""

    def use(self, accelerator: str) -> None:
        """Load models on that accelerator from now on; ``AcceleratorMissing``, which lists those there are."""
        if accelerator != CPU:
            raise missing(accelerator, self.packages[0], [])

    def accelerators(self) -> List[Dict[str, str]]:
        """Those that the runtime can use here beside the processor: ``{"name": "gpu", "what": "V3D 7.1"}``, found by trying them."""
        return []

    def installed(self) -> Optional[Tuple[str, str]]:
        """(package, version) of the first of ``packages`` that is installed, without importing it."""
        from importlib import metadata

        for package in self.packages:
            try:
                return package, metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return None

    def runtime(self) -> Tuple[str, str]:
        """(package, version), after really importing it; ``ImportError`` when it cannot be."""
        raise NotImplementedError

    def load(self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]]) -> Model:
        """Load a model from a path or its bytes.  ``specs`` are the inputs' shapes where the file does not hold them."""
        raise NotImplementedError


def chosen(own: List[Spec], given: Optional[List[Spec]]) -> List[Spec]:
    """The inputs as ``given``, where some are, with the types that the file has; ``ModelRefused`` when there are not as many."""
    if not given:
        return own
    if len(given) != len(own):
        raise ModelRefused(f"the model has {len(own)} inputs, and the shapes of {len(given)} were given")
    for spec, item in zip(own, given):
        if item["dtype"] not in (spec["dtype"], UNSAID):
            raise ModelRefused(f"the model's inputs are {own}, and {given} was given")
    return [{"shape": list(item["shape"]), "dtype": spec["dtype"]} for spec, item in zip(own, given)]


__all__ = ["ENGINES", "AcceleratorMissing", "Engine", "Model", "ModelRefused", "Operator", "Spec", "chosen"]

UNSAID = "float32"
"""The type of a shape that was given without one."""

ENGINES: Registry[Engine] = Registry("engine", __name__)
