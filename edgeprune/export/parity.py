"""Does an exported file compute what the PyTorch model computes?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    equal.  Infinities of one sign are equal, as in masked scores, but an output of nothing else is not evidence, and NaN on either side
    never is: what made it is unknown. Raises :class:`ParityError` naming the format, the output, its worst element and the tolerance.
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
    _require_evidence(what, want64, want.shape)
    error = torch.where(want64 == got64, 0.0, (want64 - got64).abs()).nan_to_num(nan=torch.inf)
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


def _require_evidence(what: str, want: Tensor, shape: torch.Size) -> None:
    """Raise :class:`ParityError` for outputs of the PyTorch model that any file would match or none."""
    if bool(want.isnan().any()):
        place = int(want.isnan().int().argmax())
        where = [int(i) for i in torch.unravel_index(torch.tensor(place), shape)]
        raise ParityError(f"{what}: the PyTorch model itself gives NaN at {where}: there is nothing to compare the file with", remedy=_NAN)
    if not bool(want.isfinite().any()):
        raise ParityError(f"{what}: the PyTorch model gives infinities only: there is nothing to compare the file with", remedy=_NAN)


_NAN = "Check what the model gives for random inputs; dividing by zero, log(0) or a softmax over a masked row is the usual cause."

LEAST_SQNR_DB = 15.0
"""Signal to quantization noise of outputs, below which a quantized file no longer computes the same function: noise of 3 % of the power."""

LEAST_AGREEMENT = 0.9
"""Share of inferences whose largest class score is of the same class, that is enough where the scores themselves are noisier."""

LEAST_BALANCED = 0.75
"""And the mean of that share over the classes: a rare class that is lost changes the whole share little."""


LEAST_ROW_DB = 6.0
"""The same of a single row of an output, below which the row is lost: noise of half its size."""

LOST_SHARE = 1 / 8
"""Share of an axis's rows that may be lost: a channel that says next to nothing is not worth a refusal."""

PROBABILITY_ERROR = 0.02
"""Root mean square error of a row of numbers between 0 and 1 that is small enough, however small they are: a class that never comes up."""

_MOST_ROWS = 4096
_SMALL = 16.0


@dataclass(frozen=True)
class Fidelity:
    """Of a quantized file to the PyTorch model, over several inferences, its worst output.

    ``sqnr_db``: the ratio of the output's power to the error's (infinite when there is none). ``agreement``: the share of inferences with
    the same top class (of equal elements, for outputs of integers; None for other outputs); ``balanced``: the mean of that share over the
    classes that the PyTorch model names. ``lost``: the rows along one axis that are lost, though the output as a whole may be near, in
    words; empty when there are none. ``output``: its place.
    """

    sqnr_db: float
    agreement: float | None
    balanced: float = 1.0
    lost: str = ""
    output: int = 0

    @property
    def good(self) -> bool:
        """Whether it computes the same function."""
        same = self.agreement is not None and self.agreement >= LEAST_AGREEMENT and self.balanced >= LEAST_BALANCED
        return not self.lost and (self.sqnr_db >= LEAST_SQNR_DB or same)

    def __str__(self) -> str:
        same = "" if self.agreement is None else f", the same top class in {100 * self.agreement:.0f} %"
        rare = f" ({100 * self.balanced:.0f} % with every class counted equally)" if self.balanced < 1.0 else ""
        return f"output {self.output}: signal to noise {self.sqnr_db:.1f} dB{same}{rare}{f'; {self.lost}' if self.lost else ''}"


def fidelity(expected: Sequence[Sequence[Tensor]], produced: Sequence[Sequence[Tensor]]) -> Fidelity:
    """Compare the outputs of several inferences, one list of tensors each.  Raises :class:`ParityError` when their shapes differ."""
    found = []
    for index, (want, got) in enumerate(zip(zip(*expected, strict=True), zip(*produced, strict=True), strict=True)):
        if [value.shape for value in want] != [value.shape for value in got]:
            raise ParityError(f"output {index} has shape {tuple(got[0].shape)}, expected {tuple(want[0].shape)}")
        found.append(replace(_fidelity(torch.stack(want), torch.stack(got)), output=index))
    return min(found, key=lambda item: (item.good, item.sqnr_db))


def _fidelity(want: Tensor, got: Tensor) -> Fidelity:
    for side, values in (("PyTorch model", want), ("file", got)):
        if bool(values.isnan().any()):
            return Fidelity(-math.inf, None, lost=f"the {side} gives NaN")
    if not want.is_floating_point():
        return Fidelity(-math.inf, float((want == got).double().mean()))
    classes = want.dim() == 3 and want.shape[1] == 1 and want.shape[2] > 1
    if not classes:
        return Fidelity(sqnr_db(want, got), None, lost=_lost_rows(want, got))
    named, same = want.argmax(2).flatten(), (want.argmax(2) == got.argmax(2)).double().flatten()
    shares = [float(same[named == one].mean()) for one in set(named.tolist())]
    agreement = float(same.mean())
    lost = _lost_rows(want, got, small_alone=agreement >= LEAST_AGREEMENT)  # noise in scores of one size is judged by the classes
    return Fidelity(sqnr_db(want, got), agreement, sum(shares) / len(shares), lost)


def _lost_rows(want: Tensor, got: Tensor, *, small_alone: bool = False) -> str:
    """The rows of the first axis along which too many are lost, in words.  The first dimension counts inferences.  ``small_alone``: only
    rows much smaller than the largest count."""
    power, noise = want.nan_to_num(0.0, 0.0, 0.0).square(), _error(want, got).square()
    for axis in range(1, want.dim()):
        rows = want.shape[axis]
        if not 2 <= rows <= _MOST_ROWS:
            continue
        others = [other for other in range(want.dim()) if other != axis]
        signal, error = power.sum(others, dtype=torch.float64), noise.sum(others, dtype=torch.float64)
        decibels = 10.0 * torch.log10(signal.clamp_min(1e-300) / error.clamp_min(1e-300))
        probable = (want.amin(others) >= 0.0) & (want.amax(others) <= 1.0)
        peaks = want.nan_to_num(0.0, 0.0, 0.0).abs().amax(others)
        harmless = probable & ((error * rows / want.numel()).sqrt() <= PROBABILITY_ERROR)
        if small_alone:
            harmless |= peaks * _SMALL > peaks.max()
        lost = (decibels < LEAST_ROW_DB) & (error > 0.0) & ~harmless
        if int(lost.sum()) >= rows * LOST_SHARE:
            worst = float(decibels[lost].min())
            return f"{_listed(lost.nonzero().flatten().tolist())} of its axis {axis - 1} lost ({worst:.1f} dB)"
    return ""


def _listed(places: Sequence[int]) -> str:
    """``rows 4 to 7``, ``rows 0, 2, 3`` or ``row 4``."""
    if len(places) == 1:
        return f"row {places[0]}"
    if places[-1] - places[0] == len(places) - 1:
        return f"rows {places[0]} to {places[-1]}"
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    return f"rows {', '.join(map(str, places[:4]))}{more}"


def _error(want: Tensor, got: Tensor) -> Tensor:
    """Equal infinities differ by nothing."""
    return torch.where(want == got, torch.zeros((), dtype=want.dtype), want - got)


def sqnr_db(want: Tensor, got: Tensor) -> float:
    """Power of ``want`` over the power of the error, in decibels; infinities that are equal are left out."""
    noise = float(_error(want, got).square().sum(dtype=torch.float64))
    signal = float(want.nan_to_num(0.0, 0.0, 0.0).square().sum(dtype=torch.float64))
    if math.isnan(noise):
        return -math.inf
    return math.inf if noise == 0.0 else 10.0 * math.log10(max(signal, 1e-300) / noise)
