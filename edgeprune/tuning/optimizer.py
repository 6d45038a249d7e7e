"""The optimizer of a fine-tuning: which one, at which rate, by the kind of network, unless the task says it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.batches import call
from edgeprune.errors import RecipeError
from edgeprune.graph.twin import twin
from edgeprune.placement import device_of, graphs_of, to_device
from edgeprune.task import Task

Kind = Literal["attention", "recurrent", "batch-normalised", "layer-normalised", "plain"]
Rate = Callable[[float], float]
Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

MOMENTUM: Final = 0.9
OPTIMIZERS: Final = ("auto", "sgd", "adamw")

CHOICE: Final[dict[Kind, str]] = {
    "attention": "adamw",
    "recurrent": "adamw",
    "layer-normalised": "adamw",
    "batch-normalised": "sgd",
    "plain": "sgd",
}

RATES: Final[dict[tuple[str, Kind], float]] = {
    ("adamw", "attention"): 1e-4,
    ("adamw", "layer-normalised"): 1e-4,
}
"""Peak learning rates; for every other kind ``RATE``.  AdamW at 1e-4 is the order at which transformers are distilled (5e-4: Sanh et al.,
"DistilBERT", 2019) and fine-tuned (2e-5 to 5e-5: Devlin et al., "BERT", 2019); 1e-3 is its own default."""

RATE: Final = {"sgd": 0.02, "adamw": 1e-3}
WEIGHT_DECAY: Final = {"sgd": 5e-4, "adamw": 0.01}

WARMUP: Final = {"attention": 0.1}
"""The share of the steps over which the rate rises, by kind; ``WARMUP_SHARE`` for the others."""

WARMUP_SHARE: Final = 0.05

CLIP_NORM: Final = {"attention": 1.0, "recurrent": 1.0, "layer-normalised": 1.0}
"""The largest norm of the gradient of all parameters together (Pascanu et al., "On the difficulty of training recurrent neural networks",
2013), by kind; ``CLIP_NORM_OTHERS`` for the others."""

CLIP_NORM_OTHERS: Final = 5.0

LARGEST_ADAM_RATE: Final = 0.01
"""A rate that the task gives and that is larger is one of SGD: AdamW moves every weight by it in every step."""


def _cosine(part: float) -> float:
    """Loshchilov & Hutter, "SGDR", 2017: a half cosine to zero."""
    return 0.5 * (1 + math.cos(math.pi * part))


SCHEDULES: Final[dict[str, Rate]] = {"cosine": _cosine, "linear": lambda part: 1 - part, "constant": lambda part: 1.0}
"""By name, the share of the peak rate after that part (0 to 1) of the steps that follow the warm-up."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How a model is trained, every default filled in.

    ``kind``: what the network is. ``optimizer``: "sgd", "adamw", or a function that makes one. ``learning_rate``: the peak; None means the
    one that the function sets. ``warmup``: a share of all steps. ``clip_norm``: 0 clips nothing. ``ema``: decay of the average of the
    weights; None keeps none.
    """

    kind: Kind
    optimizer: str | Factory
    learning_rate: float | None
    weight_decay: float
    lr_schedule: str | Rate
    warmup: float
    clip_norm: float
    label_smoothing: float
    ema: float | None

    @property
    def text(self) -> str:
        """All of it in one line."""
        rate = "its own learning rate" if self.learning_rate is None else f"learning rate {self.learning_rate:g}"
        parts = [rate, f"{_name(self.lr_schedule)} schedule after {100 * self.warmup:g} % warm-up"]
        if not callable(self.optimizer):
            parts.append(f"weight decay {self.weight_decay:g}")
        parts.append(f"gradients clipped at a norm of {self.clip_norm:g}" if self.clip_norm else "gradients not clipped")
        parts += [f"label smoothing {self.label_smoothing:g}"] if self.label_smoothing else []
        parts += [f"weights averaged with decay {self.ema:g}"] if self.ema else []
        named = {"sgd": "SGD with Nesterov momentum", "adamw": "AdamW"}
        who = named.get(self.optimizer, self.optimizer) if isinstance(self.optimizer, str) else f"the task's own ({_name(self.optimizer)})"
        return f"optimizer: {who} for {'an' if self.kind == 'attention' else 'a'} {self.kind} network, {', '.join(parts)}"

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint is continued under, in JSON's types: empty for the settings that there were when there was no choice."""
        usual = self.optimizer == "sgd" and (self.lr_schedule, self.warmup, self.clip_norm) == ("cosine", WARMUP_SHARE, CLIP_NORM_OTHERS)
        given = {
            "optimizer": _name(self.optimizer), "lr_schedule": _name(self.lr_schedule), "warmup": self.warmup, "clip_norm": self.clip_norm
        }  # fmt: skip
        extra = {"label_smoothing": self.label_smoothing, "ema": self.ema}
        return ({} if usual else given) | {name: value for name, value in extra.items() if value}

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer.  Biases, norms and other vectors do not decay (He et al., "Bag of Tricks for Image Classification", 2019, section
        3.1).  Raises :class:`RecipeError` when the task's own function fails or returns something else."""
        if callable(self.optimizer):
            return _users_own(self.optimizer, parameters, self.learning_rate)
        assert self.learning_rate is not None
        groups = [
            {"params": [value for value in parameters if value.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [value for value in parameters if value.dim() <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.learning_rate)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=MOMENTUM, nesterov=True)

    def rate(self, step: int, total: int, peak: float) -> float:
        """The learning rate of ``step`` (from 0) of ``total``: linear warm-up to ``peak``, then the schedule."""
        warmup = math.ceil(self.warmup * total)
        if step < warmup:
            return peak * (step + 1) / warmup
        part = (step - warmup) / max(1, total - warmup)
        schedule = SCHEDULES[self.lr_schedule] if isinstance(self.lr_schedule, str) else self.lr_schedule
        if schedule is _cosine:
            return peak * 0.5 * (1 + math.cos(math.pi * part))
        return peak * float(schedule(part))


def settings_for(model: nn.Module, task: Task) -> OptimizerSettings:
    """How ``model`` is trained on ``task``: what the task says, and for the rest what suits its kind of network.

    Attention, recurrent and layer-normalised networks get AdamW, all others SGD with Nesterov momentum. A learning rate that the task
    gives always holds; with ``optimizer="auto"`` one above ``LARGEST_ADAM_RATE`` means SGD. Raises :class:`RecipeError` for values that
    cannot be.
    """
    check_settings(task)
    kind = kind_of(model, task)
    optimizer: str | Factory = task.optimizer
    if optimizer == "auto":
        optimizer = CHOICE[kind] if task.learning_rate is None or task.learning_rate <= LARGEST_ADAM_RATE else "sgd"
    rate, decay = task.learning_rate, task.weight_decay
    if isinstance(optimizer, str):
        rate = RATES.get((optimizer, kind), RATE[optimizer]) if rate is None else rate
        decay = WEIGHT_DECAY[optimizer] if decay is None else decay
    return OptimizerSettings(
        kind=kind,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=decay or 0.0,
        lr_schedule=task.lr_schedule,
        warmup=WARMUP.get(kind, WARMUP_SHARE) if task.warmup is None else task.warmup,
        clip_norm=CLIP_NORM.get(kind, CLIP_NORM_OTHERS) if task.clip_norm is None else task.clip_norm,
        label_smoothing=task.label_smoothing,
        ema=task.ema or None,
    )


def check_settings(task: Task) -> None:
    """Refuse settings of the training that cannot be.  Raises :class:`RecipeError` that names the task's field."""
    if not callable(task.optimizer) and task.optimizer not in OPTIMIZERS:
        raise RecipeError(
            f"optimizer of task {task.name} is {task.optimizer!r}",
            remedy=f"Known: {', '.join(OPTIMIZERS)}, or a function of the parameters that returns an optimizer.",
        )
    if not callable(task.lr_schedule) and task.lr_schedule not in SCHEDULES:
        raise RecipeError(
            f"lr_schedule of task {task.name} is {task.lr_schedule!r}",
            remedy=f"Known: {', '.join(SCHEDULES)}, or a function of the part done (0 to 1) that returns a share of the rate.",
        )
    for name, low, high in (
        ("learning_rate", 0.0, math.inf),
        ("weight_decay", 0.0, math.inf),
        ("clip_norm", 0.0, math.inf),
        ("warmup", 0.0, 1.0),
        ("label_smoothing", 0.0, 1.0),
        ("ema", 0.0, 1.0),
        ("distillation", 0.0, 1.0),
    ):
        value = getattr(task, name)
        open_end = name in ("label_smoothing", "ema") and value == high
        if value is not None and (not low <= value <= high or open_end or not math.isfinite(value)):
            bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"{low:g} or more"
            raise RecipeError(f"{name} of task {task.name} is {value}, not {bounds}")
    if task.label_smoothing:
        smoothed(task)
    if callable(task.optimizer) and task.weight_decay is not None:
        raise RecipeError(
            f"task {task.name} has a weight_decay and an optimizer of its own, which sets its own",
            remedy="Give the weight decay to the optimizer.",
        )


def smoothed(task: Task) -> Task:
    """The task with its label smoothing in its loss, for training (Szegedy et al., "Rethinking the Inception Architecture", 2016, section
    7).  Raises :class:`RecipeError` where the loss is not cross-entropy."""
    if not task.label_smoothing:
        return task
    if task.loss is nn.functional.cross_entropy:
        usual: Any = nn.functional.cross_entropy
        return replace(task, loss=functools.partial(usual, label_smoothing=task.label_smoothing))
    if isinstance(task.loss, nn.CrossEntropyLoss):
        loss = nn.CrossEntropyLoss(
            task.loss.weight,
            ignore_index=task.loss.ignore_index,
            reduction=task.loss.reduction,
            label_smoothing=task.label_smoothing,
        )
        return replace(task, loss=loss)
    raise RecipeError(
        f"label_smoothing of task {task.name} needs cross-entropy as its loss, and it has a loss of its own",
        remedy="Smooth the targets in task.loss, or leave label_smoothing at 0.",
    )


def _users_own(factory: Factory, parameters: list[nn.Parameter], rate: float | None) -> torch.optim.Optimizer:
    name = _name(factory)
    try:
        made = factory(parameters)
    except Exception as error:
        raise RecipeError(
            f"the task's optimizer {name} raised {type(error).__name__}: {error}",
            remedy="It gets the list of the parameters that train, and returns a torch.optim.Optimizer.",
        ) from error
    if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise RecipeError(
            f"the task's optimizer {name} returned a {type(made).__name__}",
            remedy="Let it return a torch.optim.Optimizer whose step() needs no closure.",
        )
    if rate is not None:
        for group in made.param_groups:
            group["lr"] = rate
    return made


def _name(value: Any) -> str:
    if isinstance(value, str):
        return value
    while isinstance(value, functools.partial):
        value = value.func
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}".lstrip(".")


_KINDS: WeakKeyDictionary[nn.Module, Kind] = WeakKeyDictionary()


def kind_of(model: nn.Module, task: Task) -> Kind:
    """What the network is: the first that holds of attention (seen on one inference of the task's example inputs), recurrent,
    batch-normalised, layer-normalised; plain is none of these."""
    if model not in _KINDS:
        _KINDS[model] = _kind(model, task)
    return _KINDS[model]


def _kind(model: nn.Module, task: Task) -> Kind:
    modules = list(model.modules())
    calls = [str(node.target) for module in modules for graph in graphs_of(module) for node in graph.nodes]
    if any(isinstance(module, nn.MultiheadAttention) for module in modules) or _attends(model, task):
        return "attention"
    if any(isinstance(module, (nn.RNNBase, nn.RNNCellBase)) for module in modules) or any(map(_is_recurrent, calls)):
        return "recurrent"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules) or any("batch_norm" in call for call in calls):
        return "batch-normalised"
    layers = (nn.LayerNorm, nn.RMSNorm)
    if any(isinstance(module, layers) or type(module).__name__.endswith(("LayerNorm", "RMSNorm")) for module in modules) or any(
        "layer_norm" in call or "rms_norm" in call for call in calls
    ):
        return "layer-normalised"
    return "plain"


def _is_recurrent(call: str) -> bool:
    return call.startswith(("aten.lstm", "aten.gru", "aten.rnn_"))


def _attends(model: nn.Module, task: Task) -> bool:
    watch = _WatchAttention()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            call(twin(model).eval(), to_device(task.example_inputs, device_of(model)))
    except Exception:  # what is wrong with the model or its example inputs shows when it is run
        return watch.found
    return watch.found


class _WatchAttention(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether a softmax weighs what a matrix product sums, in whatever spelling."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False
        self._weights: list[Tensor] = []  # kept, so that no other tensor gets their memory
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.found:
            return result
        name = func.name().partition("::")[2].partition(".")[0]
        if any(part in name for part in ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")):
            self.found = True
        elif name in ("softmax", "_softmax", "_safe_softmax"):
            self._keep(result)
        elif name in ("clone", "_to_copy", "native_dropout") and self._holds(args):
            self._keep(result[0] if isinstance(result, tuple) else result)
        elif name in ("bmm", "baddbmm", "mm", "addmm", "matmul"):
            self.found = self._holds(args)
        if self.found:
            self._weights.clear()
        return result

    def _keep(self, value: Tensor) -> None:
        self._weights.append(value)
        self._known.add(value.untyped_storage()._cdata)

    def _holds(self, args: Any) -> bool:
        return any(value.untyped_storage()._cdata in self._known for value in pytree.tree_leaves(args) if isinstance(value, Tensor))
