"""Does an exported file compute what the PyTorch model computes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import ParityError


@dataclass(frozen=True)
class Parity:
    """The largest error over all outputs: ``max_abs`` in the output's unit, ``max_rel`` as a fraction of the output's largest magnitude."""

    max_abs: float
    max_rel: float


def compare(name: str, expected: Sequence[Tensor], produced: Sequence[Tensor], tolerance: float) -> Parity:
    """Compare the outputs of the exported file ``name`` with the PyTorch model's, output by output.

    An element of a floating-point output may differ by ``tolerance`` times the output's largest magnitude; integers and booleans must be
    equal. Raises :class:`ParityError` naming the format, the output, its worst element and the tolerance.
    """
    if len(expected) != len(produced):
        raise ParityError(f"{name}: the file has {len(produced)} outputs and the PyTorch model {len(expected)}")
    worst = Parity(0.0, 0.0)
    for index, (want, got) in enumerate(zip(expected, produced, strict=True)):
        one = _compare_output(f"{name}: output {index}", want, got, tolerance)
        worst = Parity(max(worst.max_abs, one.max_abs), max(worst.max_rel, one.max_rel))
    return worst


def _compare_output(what: str, want: Tensor, got: Tensor, tolerance: float) -> Parity:
    if want.shape != got.shape:
        raise ParityError(f"{what} has shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    if want.numel() == 0:
        return Parity(0.0, 0.0)
    exact = not want.is_floating_point()
    want64, got64 = want.double().flatten(), got.double().flatten()
    same = (want64 == got64) | (want64.isnan() & got64.isnan())  # infinities too
    error = torch.where(same, 0.0, (want64 - got64).abs()).nan_to_num(nan=torch.inf)
    finite = want64[want64.isfinite()].abs()
    scale = max(float(finite.max()) if finite.numel() else 0.0, torch.finfo(torch.float32).tiny)
    place = int(error.argmax())
    allowed = 0.0 if exact else tolerance * scale
    if float(error[place]) > allowed:
        where = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), want.shape))
        raise ParityError(
            f"{what} differs from the PyTorch model at {list(where)}: {float(got64[place]):.6g}, expected {float(want64[place]):.6g} "
            f"(off by {float(error[place]):.3g}, allowed {allowed:.3g})"
        )
    return Parity(float(error[place]), float(error[place]) / scale)
