"""The rules, by the operation they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

Rule = Callable[..., Any]
"""``rule(flow, node, *args, **kwargs) -> value``: labels of the result from the values of the arguments."""

Rewriter = Callable[..., None]
"""``rewriter(cut, node)``: correct the sizes written in a node of the exported graph after channels were removed."""

Reference = Callable[..., Any]
"""``reference(node, stays, x, *args, **kwargs) -> result``: the operation over only those elements of ``x`` that ``stays`` (bool,
broadcastable to ``x``; None: all) marks; the others of ``x`` are zero."""

RULES: dict[Any, Rule] = {}
REWRITERS: dict[Any, Rewriter] = {}
REFERENCES: dict[Any, Reference] = {}
FALLBACKS: dict[torch.Tag, Rule] = {}
"""Rules for all operations that PyTorch tags so."""


def rule_of(target: Any) -> Rule | None:
    """The rule of an operation, or of all operations of its kind; None where there is none."""
    tagged = (FALLBACKS[tag] for tag in FALLBACKS if tag in getattr(target, "tags", ()))
    return RULES.get(target) or RULES.get(str(target)) or next(tagged, None)


def rule(*ops: OpOverload | str) -> Callable[[Rule], Rule]:
    """Register the rule of ``ops``, by their names where other libraries define them when they are imported.  A second rule for the same
    operation is an error."""
    return _register(RULES, ops)


def rewriter(*ops: OpOverload) -> Callable[[Rewriter], Rewriter]:
    """Register what corrects the sizes in nodes of ``ops``."""
    return _register(REWRITERS, ops)


def reference(*ops: OpOverload) -> Callable[[Reference], Reference]:
    """Register what ``ops`` compute over channels of which some are gone, in the original's shapes: they mix channels without a stored
    weight, so that zeros would not be the same as nothing."""
    return _register(REFERENCES, ops)


def _register(
    table: dict[Any, Callable[..., Any]], ops: tuple[OpOverload | str, ...]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for op in ops:
            if op in table:
                raise ValueError(f"{op} already has the rule {table[op].__name__}")
            table[op] = function
        return function

    return add
