"""A typed registry: a duplicate is an error, an unknown name lists the known ones."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Callable, Dict, Generic, List, Type, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name, found in the modules of one package."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: Dict[str, Type[T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Type[T]], Type[T]]:
        """Class decorator; raises ``ValueError`` when ``name`` is taken."""

        def add(cls: Type[T]) -> Type[T]:
            if name in self._classes:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> List[str]:
        """All known names, sorted."""
        if not self._loaded:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._loaded = True
        return sorted(self._classes)

    def get(self, name: str) -> Type[T]:
        """The class of that name; ``ValueError`` naming the known ones when there is none."""
        names = self.names()
        if name not in names:
            raise ValueError(f"unknown {self.kind} {name!r}; known: {', '.join(names)}")
        return self._classes[name]
