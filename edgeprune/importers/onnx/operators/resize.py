"""Resizing images, and sampling them at given places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Size, Value

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@operator("Upsample")
def upsample(call: Call) -> Value:
    """By scales, as older operator sets have it."""
    scales = call.attribute("scales")
    scales = scales if scales is not None else call.fixed(1, "the scales").tolist()
    return _resized(call, scales, None, "asymmetric", "floor")


@operator("Resize", until=10)
def resize_by_scales(call: Call) -> Value:
    """By scales, from the upper left corner."""
    return _resized(call, call.fixed(1, "the scales").tolist(), None, "asymmetric", "floor")


@operator("Resize", since=11)
def resize(call: Call) -> Value:
    """By scales or to sizes, with places as ``coordinate_transformation_mode`` says."""
    scales = call.optional(2)
    given = call.fixed(2, "the scales").tolist() if scales is not None and scales.example.numel() else None
    sizes = call.sizes(call[3]) if call.optional(3) is not None else None
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        call.refuse("keeps the aspect ratio")
    if call.attribute("axes") is not None:
        axes = [axis % call[0].rank for axis in call.attribute("axes")]
        if given is not None:
            given = [dict(zip(axes, given, strict=True)).get(axis, 1.0) for axis in range(call[0].rank)]
        if sizes is not None:
            known = dict(zip(axes, sizes, strict=True))
            sizes = [known.get(axis, call[0].shape[axis]) for axis in range(call[0].rank)]
    how = call.attribute("coordinate_transformation_mode", "half_pixel")
    return _resized(call, given, sizes, how, call.attribute("nearest_mode", "round_prefer_floor"))


def _resized(call: Call, scales: list[float] | None, sizes: list[Any] | None, how: str, rounding: str) -> Value:
    value, spatial = call[0], call[0].rank - 2
    before = value.shape[2:]
    if any(isinstance(size, Size) for size in before):
        call.refuse("resizes the samples")
    old = [int(size) for size in before if isinstance(size, int)]
    fixed = (sizes[:2] == value.shape[:2]) if sizes is not None else scales is not None and list(scales[:2]) == [1.0, 1.0]
    if not fixed or spatial not in _LINEAR:
        call.refuse("resizes samples or channels")
    if sizes is not None:
        new = [int(size) for size in sizes[2:]]
        ratios = [after / size for after, size in zip(new, old, strict=True)]
    else:
        assert scales is not None
        ratios = [float(scale) for scale in scales[2:]]
        new = [int(size * ratio + 1e-6) for size, ratio in zip(old, ratios, strict=True)]
    if new == old:
        return value
    mode = call.attribute("mode", "nearest")
    if mode == "nearest":
        return _nearest(call, value, old, new, ratios, how, rounding)
    kind = "bicubic" if mode == "cubic" else _LINEAR[spatial]
    exact = all(abs(size * ratio - after) < 1e-4 for size, ratio, after in zip(old, ratios, new, strict=True))
    plain = how in ("half_pixel", "align_corners") or (how == "pytorch_half_pixel" and min(new) > 1)
    if plain and exact and (mode == "linear" or (spatial == 2 and call.attribute("cubic_coeff_a", -0.75) == -0.75)):
        extra: dict[str, Any] = {"antialias": True} if call.attribute("antialias", 0) else {}
        if call.attribute("exclude_outside", 0) and not extra:
            call.refuse("leaves out what is outside")
        return call.apply(functional.interpolate, value, size=tuple(new), mode=kind, align_corners=how == "align_corners", **extra)
    if mode != "linear":
        call.refuse(f"interpolates by {mode} with {how} coordinates")
    return _linear(call, value, old, new, ratios, how)


def _places(old: int, new: int, ratio: float, how: str) -> Tensor:
    """Where every new position lies among the old ones (``coordinate_transformation_mode`` of ONNX's Resize)."""
    place = torch.arange(new, dtype=torch.float64)
    if how == "asymmetric":
        return place / ratio
    if how == "align_corners":
        return place * (old - 1) / max(new - 1, 1)
    if how == "pytorch_half_pixel" and new == 1:
        return torch.zeros(1, dtype=torch.float64)
    if how == "half_pixel_symmetric":
        shift = old / 2 * (1 - new / (ratio * old))
        return shift + (place + 0.5) / ratio - 0.5
    if how == "tf_half_pixel_for_nn":
        return (place + 0.5) / ratio
    return (place + 0.5) / ratio - 0.5


def _nearest(call: Call, value: Value, old: list[int], new: list[int], ratios: list[float], how: str, rounding: str) -> Value:
    if how == "tf_crop_and_resize":
        call.refuse("crops")
    wanted = []
    for size, after, ratio in zip(old, new, ratios, strict=True):
        place = _places(size, after, ratio, how)
        if rounding == "round_prefer_floor":
            chosen = torch.ceil(place - 0.5)
        elif rounding == "round_prefer_ceil":
            chosen = torch.floor(place + 0.5)
        else:
            chosen = torch.ceil(place) if rounding == "ceil" else torch.floor(place + 1e-9)
        wanted.append(chosen.clamp(0, size - 1).long())
    for mode, shift in (("nearest", 0.0), ("nearest-exact", 0.5)):
        own = [
            ((torch.arange(after, dtype=torch.float64) + shift) * size / after + 1e-9).long().clamp(0, size - 1)
            for size, after in zip(old, new, strict=True)
        ]
        if all(torch.equal(one, other) for one, other in zip(own, wanted, strict=True)):
            return call.apply(functional.interpolate, value, size=tuple(new), mode=mode)
    for dim, index in enumerate(wanted, 2):
        value = call.apply(torch.index_select, value, dim, Value((index,) * len(call.builder.batches)))
    return value


def _linear(call: Call, value: Value, old: list[int], new: list[int], ratios: list[float], how: str) -> Value:
    """One dimension after the other, as products with matrices of weights."""
    if how == "tf_crop_and_resize":
        call.refuse("crops")
    for place, (size, after, ratio) in enumerate(zip(old, new, ratios, strict=True)):
        where = _places(size, after, ratio, how).clamp(0, size - 1)
        low = where.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = (where - low).float()
        matrix = torch.zeros(size, after)
        matrix[low, torch.arange(after)] += 1 - share
        matrix[high, torch.arange(after)] += share
        weights = Value((matrix,) * len(call.builder.batches))
        moved = call.apply(torch.movedim, value, 2 + place, -1)
        value = call.apply(torch.movedim, call.apply(torch.matmul, moved, weights), -1, 2 + place)
    return value


@operator("GridSample")
def grid_sample(call: Call) -> Value:
    """At places that are an input."""
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    mode = call.attribute("mode", "bilinear")
    return call.apply(
        functional.grid_sample,
        call[0],
        call[1],
        modes.get(mode, mode),
        call.attribute("padding_mode", "zeros"),
        bool(call.attribute("align_corners", 0)),
    )
