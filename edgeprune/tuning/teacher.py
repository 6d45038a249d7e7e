"""The dense model as a teacher: frozen, in the cheapest form that gives the same answers, and asked only once about the same samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch, tensors_of
from edgeprune.placement import device_of, move, wide
from edgeprune.tuning.context import as_float32, autocast, is_image
from edgeprune.tuning.fusion import folded, joined
from edgeprune.tuning.layout import channels_last_batch, few

CLOSE: Final = 1e-3
"""The largest difference that a form of the teacher may make, relative to its largest answer; in bfloat16 twice what autocast makes, if
that is more."""

REMEMBERED: Final = 256 * 2**20
"""Bytes of answers that are kept at most."""


@dataclass(frozen=True)
class _Form:
    """A way to compute the answers: ``inputs`` makes a batch ready, ``cast`` is the precision of autocast, if any."""

    model: nn.Module
    inputs: Callable[[Batch], Batch]
    cast: torch.dtype | None
    device: torch.device

    def __call__(self, batch: Batch) -> Any:
        given = self.inputs(batch.to(self.device))
        with torch.inference_mode(), autocast(self.cast, self.device):
            answer = as_float32(given.call(self.model))
        return pytree.tree_map_only(Tensor, torch.clone, answer)  # what gradients are computed with is not of inference mode


class Teacher:
    """A frozen copy of ``model`` that answers training batches without gradients, in evaluation mode.

    It runs on ``device``. ``first``: a batch. ``dtype``: the reduced precision that its training has; None is float32. Batch norms are
    folded into the convolutions before them and weights stored in ``dtype`` and channels-last, each only where the answers stay the same
    (``CLOSE``) on a few samples. ``remember``: keep answers by the content of the samples, up to ``REMEMBERED`` bytes, for data that
    repeat them unchanged; given up where the second pass finds none.
    """

    def __init__(self, model: nn.Module, first: Batch, device: torch.device, dtype: torch.dtype | None, remember: bool) -> None:
        copied = copy.deepcopy(model).eval().requires_grad_(False)
        move(copied, device)
        self._form = _cheapest(copied, few(first), dtype)
        self._memory = _Memory() if remember else None

    @property
    def model(self) -> nn.Module:
        """What is run."""
        return self._form.model

    def __call__(self, batch: Batch) -> Any:
        """The answers to the batch's inputs, in float32."""
        if self._memory is None:
            return self._form(batch)
        return self._memory.answers(batch, self._form)

    def epoch_ends(self) -> None:
        """All samples have been seen once more."""
        if self._memory is not None and not self._memory.useful():
            self._memory = None


def _cheapest(model: nn.Module, tried: Batch, dtype: torch.dtype | None) -> _Form:
    plain = _Form(model, lambda batch: batch, dtype, device_of(model))
    exact = _answers(replace(plain, cast=None), tried)
    usual = _answers(plain, tried)
    if exact is None or usual is None:
        return plain  # what is wrong with the model or the batch shows when it is run
    allowed = max(CLOSE, 2 * _distance(usual, exact)) if dtype is not None else CLOSE
    for form in _forms(plain, tried):
        found = _answers(form, tried)
        if found is not None and _distance(found, exact) <= allowed:
            return form
    return plain


def _forms(plain: _Form, tried: Batch) -> Iterator[_Form]:
    """From the cheapest on."""
    model, dtype = plain.model, plain.cast
    images = any(map(is_image, tried.leaves))
    layouts: list[Callable[[Batch], Batch]] = [channels_last_batch, lambda batch: batch] if images else [lambda batch: batch]
    for whole in _wholes(model, plain.device):
        for layout in layouts:
            laid = copy.deepcopy(whole).to(memory_format=torch.channels_last) if layout is channels_last_batch else whole  # type: ignore[call-overload]
            if dtype is not None and images:
                yield replace(plain, model=copy.deepcopy(laid).to(dtype), inputs=_Cast(layout, dtype), cast=None)
            yield replace(plain, model=laid, inputs=layout)


def _wholes(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The model with what can be put together, and as it is."""
    found = folded(model)
    if found is not None and device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        quick = copy.deepcopy(found)
        if joined(quick):
            yield quick
    if found is not None:
        yield found
    yield model


@dataclass(frozen=True)
class _Cast:
    layout: Callable[[Batch], Batch]
    dtype: torch.dtype

    def __call__(self, batch: Batch) -> Batch:
        return self.layout(batch.mapped(lambda value: value.to(self.dtype) if value.is_floating_point() else value, targets=False))


def _answers(form: _Form, batch: Batch) -> list[Tensor] | None:
    try:
        return [wide(value) for value in tensors_of(form(batch)) if value.is_floating_point()]
    except Exception:
        return None


def _distance(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference relative to the largest value of its tensor; infinite where shapes differ or a value is not a number."""
    if [value.shape for value in got] != [value.shape for value in wanted]:
        return float("inf")
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        if other.numel():
            difference = float((one - other).abs().max()) / max(float(other.abs().max()), 1e-12)
            worst = max(worst, difference) if difference == difference else float("inf")
    return worst


class _Memory:
    """Answers by the content of every sample."""

    def __init__(self) -> None:
        self._answers: dict[bytes, Tensor] = {}
        self._bytes, self._asked, self._hits, self._passes = 0, 0, 0, 0

    def useful(self) -> bool:
        """False once a pass found nothing that an earlier one had seen, or the answers do not fit."""
        self._passes += 1
        found = self._passes <= 1 or not self._asked or self._hits > 0
        self._asked = self._hits = 0
        return found and self._bytes <= REMEMBERED

    def answers(self, batch: Batch, form: Callable[[Batch], Any]) -> Any:
        """What ``form`` answers, remembered where all samples of the batch are known."""
        keys = _contents(batch) if self._bytes <= REMEMBERED else None
        if keys is None:
            return form(batch)
        self._asked += 1
        if all(key in self._answers for key in keys):
            self._hits += 1
            return torch.stack([self._answers[key] for key in keys])
        found = form(batch)
        if isinstance(found, Tensor) and found.dim() and len(found) == len(keys):
            for key, answer in zip(keys, found, strict=True):
                if key not in self._answers:
                    self._answers[key] = answer.clone()
                    self._bytes += answer.nbytes + 256
        return found


def _contents(batch: Batch) -> list[bytes] | None:
    """A hash of every sample of a batch on the CPU; None where its inputs do not all hold equally many."""
    leaves = batch.leaves
    tensors = [value for value in leaves if isinstance(value, Tensor) and value.dim() and value.device.type == "cpu"]
    if len(tensors) < len(leaves) or len({len(value) for value in tensors}) != 1:
        return None
    rows = [value.detach().contiguous().flatten(1) if value.dim() > 1 else value.detach().contiguous()[:, None] for value in tensors]
    kinds = str([(value.dtype, value.shape[1:]) for value in tensors]).encode()
    found = []
    for sample in zip(*(value.view(torch.uint8).numpy() for value in rows), strict=True):
        digest = blake2b(kinds, digest_size=16)
        for part in sample:
            digest.update(part.data)
        found.append(digest.digest())
    return found
