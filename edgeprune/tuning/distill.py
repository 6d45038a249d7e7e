"""Learning from the dense model's answers, and from what its layers compute on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch
from edgeprune.errors import RecipeError
from edgeprune.task import Task

TEMPERATURE: Final = 4.0

IGNORED: Final = -100
"""The target of positions that do not count, in PyTorch's losses."""

RIDGE: Final = 1e-3
"""Of the linear map between features, relative to the mean square of the student's."""

_BOXES, _SCORES = ("box", "loc", "reg"), ("logit", "score", "cls", "class", "prob")
"""Parts of the names of outputs that are boxes, and class scores."""


def distillation_loss(
    outputs: Any,
    wanted: Any,
    targets: Any,
    *,
    temperature: float = TEMPERATURE,
    ignore_index: int = IGNORED,
    mask: Tensor | None = None,
) -> Tensor | None:
    """How far a student's ``outputs`` are from the teacher's, ``wanted``; ``None`` when none of the student's has a shape of the teacher's.

    One answer is compared with the first output of its shape (auxiliary heads of training come after it), several by their places or
    names, and averaged. Class scores, (N, classes, ...) or (..., classes), with integer ``targets`` of the same positions: the
    Kullback-Leibler divergence of the distributions softened by ``temperature``, times its square so that gradients keep their size
    (Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.1), averaged over samples, pixels or tokens;
    unless real ``targets`` of their own shape are among them, as of an autoencoder.
    Of several outputs, boxes (last dimension 4, or so called): the smooth L1 distance (Girshick, "Fast R-CNN", 2015), and scores (so
    called): the divergence along their classes. Any other floating tensor: the mean squared error. Positions whose target is
    ``ignore_index``, and tokens (N, T) whose ``mask`` is 0, do not count.
    """
    found = []
    pairs = _pairs(outputs, wanted)
    for name, one, other in pairs:
        axis, target = _class_axis(name, one, targets, isinstance(outputs, Tensor), len(pairs) > 1)
        counted = _counted(one, axis, target, ignore_index, mask)
        if axis is not None:
            found.append(_divergence(one, other, axis, temperature, counted))
        elif len(pairs) > 1 and (one.shape[-1] == 4 or any(part in name for part in _BOXES)):
            found.append(F.smooth_l1_loss(one, other))
        else:
            found.append(_mean((one - other).square(), counted))
    return torch.stack(found).mean() if found else None


def answers_apart(task: Task, outputs: Any, wanted: Any, targets: Any) -> Tensor | None:
    """How far ``outputs`` are from ``wanted``, the dense model's: by ``task.distance``, or else :func:`distillation_loss`."""
    return task.distance(outputs, wanted) if task.distance is not None else distillation_loss(outputs, wanted, targets)


def _pairs(outputs: Any, wanted: Any) -> list[tuple[str, Tensor, Tensor]]:
    """The student's and the teacher's tensors that belong together, with their names."""
    answers, given = _floating(wanted), _floating(outputs)
    if len(answers) == 1:
        name, answer = answers[0]
        return [(name, value, answer) for _, value in given if value.shape == answer.shape][:1]
    known = dict(given)
    return [(name, known[name], answer) for name, answer in answers if name in known and known[name].shape == answer.shape]


def _floating(value: Any) -> list[tuple[str, Tensor]]:
    """The floating tensors of an output by name, without a loss among them."""
    leaves = pytree.tree_flatten_with_path(value)[0]
    kept = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()]
    return [(pytree.keystr(path).lower(), leaf) for path, leaf in kept]


def _class_axis(name: str, scores: Tensor, targets: Any, plain: bool, several: bool) -> tuple[int | None, Tensor | None]:
    """The dimension of the classes, None where these are not class scores; and the integer targets of the same positions, if any."""
    leaves = [leaf for leaf in pytree.tree_leaves(targets) if isinstance(leaf, Tensor)]
    if any(leaf.is_floating_point() and leaf.shape == scores.shape for leaf in leaves):
        return None, None  # an autoencoder's, which has labels for its metric alone
    kinds = [leaf for leaf in leaves if not leaf.is_floating_point()]
    for axis in (1, -1) if plain else (-1, 1):  # PyTorch's losses have classes second, transformers last
        if scores.dim() < 2 or scores.shape[axis] < 2:
            continue
        places = scores.movedim(axis, -1).shape[:-1]
        for kind in kinds:
            if kind.shape == places:
                return axis, kind
    if not several and isinstance(targets, Tensor) and kinds and scores.dim() >= 2 and scores.shape[1] > 1:
        return 1, None
    if several and any(part in name for part in _SCORES) and scores.dim() >= 2:
        return (1 if scores.dim() == 4 else -1), None
    return None, None


def _counted(value: Tensor, axis: int | None, target: Tensor | None, ignore_index: int, mask: Tensor | None) -> Tensor | None:
    """Which positions count, 1 or 0; None where all do."""
    counted = None if target is None else target != ignore_index
    if mask is not None and mask.dim() == 2:
        tokens = axis in (-1, None) and value.dim() == 3 and value.shape[:2] == mask.shape
        if tokens:
            counted = mask.bool() if counted is None else counted & mask.bool()
    return counted


def _divergence(one: Tensor, other: Tensor, axis: int, temperature: float, counted: Tensor | None) -> Tensor:
    student = F.log_softmax(one / temperature, axis)
    teacher = F.log_softmax(other / temperature, axis)
    divergence = torch.sum(F.kl_div(student, teacher, reduction="none", log_target=True), axis)
    return _mean(divergence, counted) * temperature**2


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None:
        return values.mean()
    weights = counted.reshape(counted.shape + (1,) * (values.dim() - counted.dim())).expand_as(values).to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


class WithFeatures(nn.Module):
    """``model`` that returns its outputs and what the modules called ``names`` compute: ``{"outputs": ..., "features": [...]}``."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Both."""
        with watching(self.model, self.names) as seen:
            outputs = self.model(*inputs, **named)
        return {"outputs": outputs, "features": [seen[name] for name in self.names]}


def teaching(teacher: nn.Module, task: Task) -> nn.Module:
    """The teacher in the form that :func:`distance_to` takes the answers of: with features, where the task asks for these."""
    return WithFeatures(teacher, task.distil_features) if task.distil_features else teacher


@contextmanager
def watching(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules of ``model`` called ``names`` compute inside, by name: the first tensor of each, the last time.

    Raises :class:`RecipeError` for a name that is not a module's.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(_module(model, name).register_forward_hook(keep(name)).remove)
        yield seen


def _module(model: nn.Module, name: str) -> nn.Module:
    for path in (name, f"model.{name}"):  # gates wrap the model that they are in
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    known = [found for found, _ in model.named_children()]
    raise RecipeError(
        f"task.distil_features names {name}, and {type(model).__name__} has no such module", remedy=f"It has {', '.join(known[:10])}."
    )


def distance_to(task: Task, outputs: Any, answers: Any, batch: Batch, seen: dict[str, Tensor]) -> Tensor | None:
    """The distance of a student from the ``answers`` of its teacher (see :func:`teaching`): of the outputs, and the mean of the features'.

    ``seen``: the student's features, by name. None where nothing can be compared.
    """
    mask = batch.kwargs.get("attention_mask")
    wanted = answers["outputs"] if task.distil_features else answers
    ignored = getattr(task.loss, "ignore_index", IGNORED)
    distance = (
        distillation_loss(outputs, wanted, batch.targets, temperature=task.temperature, ignore_index=ignored, mask=mask)
        if task.distance is None
        else task.distance(outputs, wanted)
    )
    if not task.distil_features:
        return distance
    features = zip(task.distil_features, answers["features"], strict=True)
    between = torch.stack([feature_distance(seen[name].float(), wanted.float(), mask) for name, wanted in features]).mean()
    return between if distance is None else distance + between


def feature_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far a student's features are from the teacher's: the mean squared error, as a share of the teacher's mean square.

    Where pruning left fewer channels, after the linear map over channels (a 1x1 convolution) that fits this batch best, by ridge
    regression: it has no state of its own, and gradients flow through the features alone. Tokens whose ``mask`` is 0 do not count.
    Source: Romero et al., "FitNets", 2015 (hints through a regressor), solved here instead of trained.
    Raises :class:`RecipeError` when shapes differ in more than the channels.
    """
    differing = [dim for dim, (one, other) in enumerate(zip(student.shape, teacher.shape, strict=False)) if one != other]
    if student.dim() != teacher.dim() or len(differing) > 1 or differing == [0]:
        raise RecipeError(
            f"features of the pruned model are {tuple(student.shape)} and of the dense one {tuple(teacher.shape)}",
            remedy="Name modules in task.distil_features whose outputs have the same positions after pruning.",
        )
    counted = mask.bool() if mask is not None and mask.dim() == 2 and student.dim() == 3 and student.shape[:2] == mask.shape else None
    if differing:
        student, teacher = (value.movedim(differing[0], -1) for value in (student, teacher))
        student = student @ _linear_map(student.detach().flatten(0, -2), teacher.flatten(0, -2))
    return _mean((student - teacher).square(), counted) / teacher.square().mean().clamp(min=1e-12)


def _linear_map(student: Tensor, teacher: Tensor) -> Tensor:
    gram = student.T @ student
    ridge = RIDGE * gram.diagonal().mean() + 1e-12
    solved: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), student.T @ teacher)
    return solved
