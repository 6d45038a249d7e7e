"""Names of a model's inputs and outputs, as its own code has them."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Inputs, Signature

_NAME = re.compile(r"[A-Za-z_]\w*")


def input_names(model: nn.Module, example_inputs: Inputs) -> tuple[str, ...]:
    """Of every tensor among the inputs: the parameter of ``forward``, with the keys that lead to it where that is nested; none at all when
    ``forward`` does not name them."""
    if isinstance(example_inputs, dict):
        named = list(example_inputs.items())
    else:
        positional = Signature(model).positional
        if len(positional) < len(example_inputs):
            return ()
        named = list(zip(positional, example_inputs, strict=False))
    found = []
    for name, value in named:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                keys = [_key(entry) for entry in path]
                found.append("_".join(keys) if keys and isinstance(value, dict) else "_".join([name, *keys]))
    return _usable(found)


def output_names(outputs: Any) -> tuple[str, ...]:
    """Of every tensor in an output: the keys or fields that lead to it; none at all where one has only a place."""
    found = []
    for path, leaf in pytree.tree_flatten_with_path(outputs)[0]:
        if isinstance(leaf, Tensor):
            keys = [_key(entry) for entry in path]
            if not keys or keys[0].isdigit():
                return ()
            found.append("_".join(keys))
    return _usable(found)


def _key(entry: Any) -> str:
    return str(next((value for name in ("key", "idx", "name") if (value := getattr(entry, name, None)) is not None), entry))


def _usable(names: list[str]) -> tuple[str, ...]:
    plain = [re.sub(r"\W", "_", name) for name in names]
    return tuple(plain) if len(set(plain)) == len(plain) and all(_NAME.fullmatch(name) for name in plain) else ()
