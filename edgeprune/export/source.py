"""What an exporter starts from: a frozen copy of the model, its inputs, and the outputs every exported file must reproduce."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgeprune.batches import Inputs, call
from edgeprune.errors import CaptureError, ExportError
from edgeprune.export.calibration import Sample, checked
from edgeprune.export.names import input_names, output_names
from edgeprune.export.options import ExportOptions
from edgeprune.export.passes.rewrite import plain_max_pools
from edgeprune.export.passes.trim import trim
from edgeprune.export.pixels import FromPixels, Normalisation, image_places
from edgeprune.surgery import flatten_outputs
from edgeprune.task import device_inputs


def flush_denormals(tensors: Iterable[Tensor]) -> None:
    """Set the denormal values of floating-point tensors to zero, in place.

    A CPU computes with denormals up to ten times slower, and fine-tuning with weight decay makes them (pytorch issue 46180).
    """
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point():
                tensor.masked_fill_(tensor.abs() < torch.finfo(tensor.dtype).tiny, 0.0)


def _frozen_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, without gradients and denormals."""
    try:
        module = copy.deepcopy(model).cpu()
    except Exception as error:
        raise ExportError(f"the model cannot be copied for export: {error}", remedy="copy.deepcopy(model) must work.") from error
    with contextlib.suppress(NotImplementedError):  # a module unlifted from an exported program has its mode baked in
        module.eval()
    module.requires_grad_(False)
    flush_denormals([*module.parameters(), *module.buffers()])
    return module


def _require_numbers(module: nn.Module) -> None:
    """:class:`ExportError` naming the first weight or buffer that holds NaN: no file of it would be good for anything."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point() and bool(value.isnan().any()):
            raise ExportError(f"{name} holds NaN", remedy="Its training went wrong: export an earlier state.")


class _Nested(nn.Module):
    """A model of nested or named inputs that takes their tensors alone, in order; other values (``None``, numbers) are as in ``leaves``."""

    def __init__(self, module: nn.Module, leaves: Sequence[Any], form: pytree.TreeSpec) -> None:
        super().__init__()
        self.module = module
        self._constants = [None if isinstance(value, Tensor) else value for value in leaves]
        self._places = [place for place, value in enumerate(leaves) if isinstance(value, Tensor)]
        self._form = form

    def forward(self, *inputs: Tensor) -> Any:
        leaves = list(self._constants)
        for place, value in zip(self._places, inputs, strict=True):
            leaves[place] = value
        return call(self.module, pytree.tree_unflatten(leaves, self._form))


class _Flat(nn.Module):
    """A model whose output is a tensor or a tuple of tensors: formats know no dicts of mixed values and no classes of the user's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = flat_outputs(self.module(*inputs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class _ChannelsLast(nn.Module):
    """A model whose inputs at ``places`` are laid out as (N, ..., C)."""

    def __init__(self, module: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.places = tuple(places)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs: Tensor | tuple[Tensor, ...] = self.module(
            *(value.movedim(-1, 1) if place in self.places else value for place, value in enumerate(inputs))
        )
        return outputs


class InputSpec(TypedDict):
    """Shape and dtype (by its name) of one input."""

    shape: list[int]
    dtype: str


class Source:
    """A frozen copy of ``model`` and the ``example_inputs`` of one inference (batch of 1); the caller's model is never changed.

    ``module`` returns a tensor, or the tensors of a nested output as one tuple. ``time_limit_s`` bounds each conversion that runs outside
    this process. ``calibration``: inputs of inferences on real data, in the shapes of the example inputs. Raises :class:`ExportError` when
    the model cannot be copied or does not run on its inputs, or the calibration does not fit them.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs | Sequence[Tensor],
        time_limit_s: float,
        calibration: Sequence[Sample] | None = None,
        options: ExportOptions | None = None,
    ) -> None:
        inputs: Inputs = example_inputs if isinstance(example_inputs, dict) else tuple(example_inputs)
        leaves, form = pytree.tree_flatten(inputs)
        self.inputs: tuple[Tensor, ...] = tuple(value.detach().cpu() for value in leaves if isinstance(value, Tensor))
        self.calibration = None if calibration is None else checked(calibration, self.inputs)
        self.options = options or ExportOptions()
        self.module = _frozen_copy(model)
        _require_numbers(self.module)
        if isinstance(inputs, dict) or not all(isinstance(value, Tensor) for value in inputs):
            self.module = _Nested(self.module, leaves, form)
        if self.options.pixels is not None:
            self._take_pixels(self.options.pixels)
        outputs = self._outputs()
        self.input_names, self.output_names = input_names(model, inputs), output_names(outputs)
        if not isinstance(outputs, Tensor):
            self.module = _Flat(self.module)
        self.time_limit_s = time_limit_s
        self.converted: bytes | None = None  # the float TFLite file, once there is one

    def _take_pixels(self, normalisation: Normalisation) -> None:
        """Let the model take its images as pixels, and its inputs and calibration be pixels."""
        places = image_places(self.inputs)
        self.module = FromPixels(self.module, places, normalisation)

        def as_pixels(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(normalisation.pixels(value) if place in places else value for place, value in enumerate(values))

        self.inputs = as_pixels(self.inputs)
        if self.calibration is not None:
            for place in places:
                normalisation.require_pixels(torch.cat([sample[place] for sample in self.calibration]))
            self.calibration = [as_pixels(sample) for sample in self.calibration]

    @cached_property
    def program(self) -> ExportedProgram:
        """The model captured as an ATen graph, without stack traces and unread weights.  Raises :class:`CaptureError`."""
        return _captured(self.module, self.inputs)

    @cached_property
    def channels_last(self) -> tuple[int, ...]:
        """The places of the inputs that a TFLite file takes as (N, ..., C): none unless the options say so."""
        wanted = self.options.channels_last
        images = [value.dim() > 2 if value.is_floating_point() else value.dim() == 4 for value in self.inputs]
        return tuple(place for place, image in enumerate(images) if wanted and image)

    @cached_property
    def mobile_program(self) -> ExportedProgram:
        """:attr:`program` with the inputs laid out as a TFLite file takes them."""
        if not self.channels_last:
            return self.program
        inputs = (value.movedim(1, -1).contiguous() if place in self.channels_last else value for place, value in enumerate(self.inputs))
        return _captured(_ChannelsLast(self.module, self.channels_last), tuple(inputs))

    @property
    def described_inputs(self) -> list[InputSpec]:
        """Shape and dtype of every input, as the PyTorch model takes them."""
        return [{"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")} for value in self.inputs]

    def refused_dtype(self, held: Collection[torch.dtype]) -> str | None:
        """The first input or weight that is of none of the real types ``held``, with its type; None when all are."""
        named = {f"input {place}": value for place, value in enumerate(self.inputs)}
        for name, value in {**named, **dict(self.module.named_parameters()), **dict(self.module.named_buffers())}.items():
            if (value.is_floating_point() or value.is_complex()) and value.dtype not in held:
                return f"{name} is {str(value.dtype).removeprefix('torch.')}"
        return None

    @cached_property
    def probe(self) -> tuple[Tensor, ...]:
        """The seeded inputs on which outputs are compared: shapes and dtypes of the example inputs."""
        return tuple(device_inputs(self.inputs))

    @cached_property
    def expected(self) -> list[Tensor]:
        """The PyTorch model's outputs for :attr:`probe`, flattened in order."""
        return flat_outputs(self._outputs())

    def _outputs(self) -> Any:
        try:
            with torch.no_grad():
                return self.module(*(value.clone() for value in self.probe))
        except Exception as error:
            raise ExportError(f"the model does not run on inputs shaped like the example inputs: {error}") from error


def _captured(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    try:
        with torch.no_grad():
            program = torch.export.export(module, inputs)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise CaptureError(
            f"torch.export cannot capture the model: {type(error).__name__}: {reason[0] if reason else 'no reason given'}",
            remedy="A branch on the values of a tensor cannot be captured: write it with torch.where, or export the part without it.",
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # this machine's paths
    trim(program)
    plain_max_pools(program.graph_module)
    return program


def flat_outputs(outputs: Any) -> list[Tensor]:
    """The tensors in a model's output, in order, without their gradients' history."""
    return [tensor.detach() for tensor in flatten_outputs(outputs)]
