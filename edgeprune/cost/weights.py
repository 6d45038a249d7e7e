"""Parameters of a pruned model, and the size of its file."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from edgeprune.cost.kernels import Kernel, alive
from edgeprune.cost.width import Widths


def kernel_parameters(kernel: Kernel, source: float, result: float) -> float:
    """Weights and bias (folded batch norm included) of one kernel at those widths."""
    form = kernel.form
    if form.kind in ("conv2d", "fully_connected"):
        return prod(form.window) * source * result / form.groups + result
    return prod(form.window) * result + result if form.kind == "depthwise_conv2d" else 0.0


def parameters(kernels: Sequence[Kernel], widths: Widths) -> float:
    """All of them."""
    return sum(kernel_parameters(*kernel) for kernel in alive(kernels, widths))
