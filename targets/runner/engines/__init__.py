"""Engines: one file for each runtime that can execute a model."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple, Union

from ..registry import Registry

Spec = Dict[str, Any]
"""Shape and dtype of a tensor: ``{"shape": [1, 3, 32, 32], "dtype": "float32"}``."""


class ModelRefused(Exception):
    """The runtime cannot load this model, or not with these inputs."""


class Model:
    """A loaded model, ready to run."""

    specs: List[Spec]

    def set_inputs(self, arrays: List[Any]) -> None:
        """Put one numpy array into each input; ``ModelRefused`` when count, shape or dtype do not fit."""
        raise NotImplementedError

    def run(self) -> None:
        """One inference on the inputs that were set."""
        raise NotImplementedError

    def outputs(self) -> List[Any]:
        """The numpy arrays that the last run made."""
        raise NotImplementedError

    def _check(self, arrays: List[Any]) -> None:
        given = [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in arrays]
        if given != self.specs:
            raise ModelRefused(f"the model's inputs are {self.specs}, and {given} was given")


class Engine:
    """A runtime.  Importing it is left to :meth:`runtime` and :meth:`load`."""

    packages: Tuple[str, ...] = ()

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


ENGINES: Registry[Engine] = Registry("engine", __name__)
