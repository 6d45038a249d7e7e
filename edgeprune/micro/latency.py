"""How long a TFLite file takes on a microcontroller, by the profile's prior: predicted, not measured."""

from __future__ import annotations

from math import prod

from edgeprune.cost.kernels import KernelSpec, macs
from edgeprune.cost.prior import PriorTimes
from edgeprune.errors import ExportError
from edgeprune.profile import Profile
from edgeprune.tflite.graph import MicroGraph, Operator, Tensor

Work = tuple[KernelSpec, float, float]
"""A kernel's spec, input width and output width."""

_FREE = frozenset({"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "SHAPE", "WHILE"})
_HEAVY = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "UNIDIRECTIONAL_SEQUENCE_LSTM"})
_KINDS = {
    "ADD": "add",
    "SUB": "add",
    "MUL": "mul",
    "DIV": "mul",
    "MEAN": "mean",
    "MAX_POOL_2D": "max_pool",
    "AVERAGE_POOL_2D": "avg_pool",
    "HARD_SWISH": "hard_swish",
    "LOGISTIC": "sigmoid",
    "TANH": "sigmoid",
    "CONCATENATION": "concat",
    "PAD": "pad",
}


def work_of(graph: MicroGraph) -> list[Work]:
    """The kernels of one inference, in their order; what only renames dimensions is free, and what
    a loop runs counts at every step.

    Raises :class:`ExportError` when an operator has shapes or options that it cannot have.
    """
    worked = [operator for operator in graph.operators if operator.name not in _FREE and operator.outputs and operator.inputs]
    return [work for operator in worked for work in [_checked(operator)] * operator.times]


def _checked(operator: Operator) -> Work:
    try:
        return _work(operator)
    except (AttributeError, IndexError) as error:
        raise ExportError(f"the TFLite model is damaged at {operator.place}: {error}", remedy="Export or copy it again.") from error


def macs_of(graph: MicroGraph) -> float:
    """Multiply-accumulates of one inference."""
    return sum(macs(spec, in_width, out_width) for spec, in_width, out_width in work_of(graph))


def is_int8(graph: MicroGraph) -> bool:
    """Whether convolutions, linear and recurrent layers read int8, as in what the profiles' figures were published of."""
    heavy = [operator for operator in graph.operators if operator.name in _HEAVY]
    return all(operator.inputs[0] is not None and operator.inputs[0].dtype == "int8" for operator in heavy if operator.inputs)


def predict_ms(graph: MicroGraph, profile: Profile) -> float:
    """Milliseconds of one inference by the profile's prior.  Raises :class:`ProfileError` when it has none."""
    times = PriorTimes(profile)
    return sum(times.spec_milliseconds(spec, in_width, out_width) for spec, in_width, out_width in work_of(graph))


def _work(operator: Operator) -> Work:
    source, result = operator.inputs[0], operator.outputs[0]
    weight = operator.inputs[1] if len(operator.inputs) > 1 else None
    if source is None:
        raise IndexError("it has no input")
    rows_in, rows_out = _rows(source), _rows(result)
    if operator.name == "FULLY_CONNECTED" and weight is not None:
        rows = (1, max(1, prod(result.shape) // max(1, weight.shape[0])))
        return KernelSpec("fully_connected", rows, rows), weight.shape[1], weight.shape[0]
    if operator.name == "UNIDIRECTIONAL_SEQUENCE_LSTM" and weight is not None:
        steps = (1, prod(source.shape[:-1]))
        return KernelSpec("lstm", steps, steps), source.shape[-1] + result.shape[-1], 4 * weight.shape[0]
    if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D") and weight is not None:
        window = (weight.shape[1], weight.shape[2])
        stride = (int(operator.options.strideH), int(operator.options.strideW))
        if operator.name == "CONV_2D":
            groups = max(1, source.shape[-1] // weight.shape[3])
            return KernelSpec("conv2d", rows_in, rows_out, window, stride, groups), source.shape[-1], result.shape[-1]
        return KernelSpec("depthwise_conv2d", rows_in, rows_out, window, stride), result.shape[-1], result.shape[-1]
    width = result.shape[-1] if result.shape else 1
    return KernelSpec(_KINDS.get(operator.name, "copy"), rows_in, rows_out), width, width


def _rows(tensor: Tensor) -> tuple[int, int]:
    """(H, W) of a tensor whose last dimension holds the channels."""
    shape = tensor.shape[:-1]
    return (prod(shape[1:-1]), shape[-1]) if len(shape) > 2 else (1, prod(shape[1:]) if len(shape) > 1 else 1)
