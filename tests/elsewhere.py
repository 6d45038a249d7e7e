"""A device for tests: tensors that hold values, say that they are elsewhere, and refuse to be mixed with those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune import placement

ELSEWHERE = torch.device("meta")
"""What the tensors say of their device: one that every build of PyTorch has, and that holds no values of its own."""


class Away(torch.Tensor):
    """A tensor that is elsewhere."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Away:
        made: Away = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=ELSEWHERE
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    away = [value for value in tensors if isinstance(value, Away)]
    here = [value for value in tensors if not isinstance(value, Away) and value.dim()]
    name = func.name().partition("::")[2].partition(".")[0]
    moves = name in ("_to_copy", "copy_")
    if away and here and not moves and name != "index":
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got some of elsewhere and some of the CPU")
    device = kwargs.get("device")
    asked = torch.device(device) if device is not None else None
    if asked == ELSEWHERE:
        kwargs = kwargs | {"device": torch.device("cpu")}
    wrappers = {id(value.held): value for value in away}
    given, named = pytree.tree_map_only(Away, lambda value: value.held, (args, kwargs))
    result = func(*given, **named)
    if not (asked == ELSEWHERE or (away and asked is None)) or (name == "copy_" and not isinstance(args[0], Away)):
        return result
    return pytree.tree_map_only(torch.Tensor, lambda value: wrappers[id(value)] if id(value) in wrappers else Away(value), result)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ``device="cuda"`` mean elsewhere inside."""
    known = placement._device
    monkeypatch.setattr(placement, "_device", lambda part, name: ELSEWHERE if part == "cuda" else known(part, name))
    original = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """Parameters stay the same objects, as on CUDA, unless something points to them weakly."""
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return original(module, *args, **kwargs)
        except RuntimeError as error:
            if "Couldn't swap" not in str(error):
                raise
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        return original(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", to)
    with _Mode():
        yield
