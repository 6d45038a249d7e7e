"""What a plan leaves of every parameter and buffer."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.errors import PlanError
from edgeprune.graph import Analysis
from edgeprune.graph.exported import tensor_at
from edgeprune.graph.nodes import store


def keep_masks(analysis: Analysis, gone: np.ndarray) -> dict[str, Tensor]:
    """For every parameter or buffer that loses something: which of its elements stay (broadcastable to its shape)."""
    masks: dict[str, Tensor] = {}
    for (name, _), labels in analysis.flow.owners.items():
        stays = torch.from_numpy(np.asarray(~gone[analysis.channels_of(labels).numpy()]))
        if not bool(stays.all()):
            masks[name] = masks[name] & stays if name in masks else stays
    return masks


def compacted(tensor: Tensor, mask: Tensor, name: str) -> Tensor:
    """The elements of ``tensor`` that stay, as a smaller box.  Raises :class:`PlanError` when they are not one."""
    flat = [mask.any(dim=tuple(d for d in range(mask.dim()) if d != dim)) if mask.dim() > 1 else mask for dim in range(mask.dim())]
    box = flat[0]
    for vector in flat[1:]:
        box = box.unsqueeze(-1) & vector
    if torch.equal(box.expand(mask.shape), mask) or torch.equal(box & torch.ones_like(mask), mask):
        for dim, vector in enumerate(flat):
            if vector.numel() > 1 and not bool(vector.all()):
                tensor = tensor.index_select(dim, vector.nonzero().flatten())
        return tensor.contiguous()
    full = mask.expand(tensor.shape)
    shape = box_shape(full)
    if shape is None:
        raise PlanError(f"what remains of {name} is not a rectangular tensor: its rows keep different numbers of channels")
    return tensor[full].reshape(shape)


def box_shape(mask: Tensor) -> list[int] | None:
    """The shape of what stays when every row keeps equally many elements (not the same ones); None when rows are unequal."""
    for dims in (range(mask.dim() - 1, -1, -1), range(mask.dim())):
        shape, left = [0] * mask.dim(), mask
        for dim in dims:
            shape[dim] = int(left.sum(dim).max())
            left = left.any(dim, keepdim=True)
        if int(np.prod(shape)) == int(mask.sum()):
            return shape
    return None


def masked_copy(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy of ``model`` with everything that goes set to zero: the reference a compacted model must equal."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            tensor_at(result, name).mul_(mask)
    return result


def replace_tensors(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Put the compacted tensors in the places of the old ones; what was shared stays shared."""
    places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for owner, leaf, tensor in _places(model):
        places[id(tensor)].append((owner, leaf))
    for name, mask in masks.items():
        old = tensor_at(model, name)
        small: Tensor = compacted(old.detach(), mask, name).clone()
        if isinstance(old, nn.Parameter):
            small = nn.Parameter(small, requires_grad=old.requires_grad)
        for owner, leaf in places[id(old)]:
            store(owner, leaf, small)


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for owner in model.modules():
        for table in (owner._parameters, owner._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    yield owner, leaf, tensor


def expanded(dense: nn.Module, masks: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A compacted model's ``state`` in the dense model's shapes, zeros where channels went: the inverse of compacting."""
    result, names = {}, defaultdict[int, list[str]](list)
    held = dense.state_dict(keep_vars=True)
    for name, tensor in held.items():
        names[id(tensor)].append(name)
    for name, tensor in held.items():
        alike = [name, *names[id(tensor)]]  # a shared parameter may have lost some of its names
        mask, left = (next((table[one] for one in alike if one in table), None) for table in (masks, state))
        full = torch.zeros_like(tensor, requires_grad=False)
        if left is not None and mask is not None:
            full[mask.expand(tensor.shape)] = left.flatten()
        elif left is not None:  # what is not in the state went with its block
            full = left.clone()
        result[name] = full
    return result
