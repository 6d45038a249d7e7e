"""What exists only in training is cut along, and still acts after the cut: in the modules, and as a graph."""

from __future__ import annotations

import copy
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import analyze
from edgeprune.errors import VerificationError
from edgeprune.graph import Analysis
from edgeprune.surgery import Pruned, apply, load, plan_from_saliency, restore, save
from edgeprune.surgery.apply import Mode
from edgeprune.task import Task
from edgeprune.tuning import finetune, recalibrate, score

INPUT = (torch.zeros(1, 3, 16, 16),)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Scores(NamedTuple):
    main: Tensor
    aux: Tensor
    deep: Tensor


class Auxiliary(nn.Module):
    """Two heads that only training uses, one with a layer of its own and one that is flattened; outputs in three forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.stem, self.middle, self.late = block(3, 12), block(12, 16, 2), block(16, 20, 2)
        self.head, self.aux = nn.Linear(20, 5), nn.Sequential(nn.Conv2d(16, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.aux_head, self.deep = nn.Linear(6, 5), nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Any:
        early = self.stem(x)
        middle = self.middle(early)
        scores = self.head(self.late(middle).mean((2, 3)))
        if not self.training:
            return {"out": scores} if self.form == "dict" else scores
        aux = self.aux_head(self.aux(middle).mean((2, 3)))
        deep = self.deep(functional.adaptive_avg_pool2d(early, 4).flatten(1))
        if self.form == "dict":
            return {"out": scores, "aux": aux, "deep": deep}
        return Scores(scores, aux, deep) if self.form == "named" else (scores, aux, deep)


class DropPath(nn.Module):
    """Stochastic depth as timm writes it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class Noise(nn.Module):
    """Noise of every channel and place, in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * torch.randn(x.shape) if self.training else x


class HandWritten(nn.Module):
    """Whole channels dropped by hand, in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape[0], x.shape[1], 1, 1) < 0.5).float() if self.training else x


def layer(kind: str) -> nn.Module:
    return {
        "channels": lambda: nn.Dropout2d(0.5),
        "places": lambda: nn.Dropout(0.5),
        "alpha": lambda: nn.AlphaDropout(0.5),
        "feature alpha": lambda: nn.FeatureAlphaDropout(0.5),
        "depth": lambda: torchvision.ops.StochasticDepth(0.5, "row"),
        "path": lambda: DropPath(0.5),
        "noise": Noise,
        "by hand": HandWritten,
        "slope": nn.RReLU,
    }[kind]()


class Random(nn.Module):
    """A residual net whose branch passes a layer that acts in training; a width is written into its code."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.head = block(3, 16), block(16, 16), nn.Linear(16, 5)
        self.inner, self.acting = nn.Conv2d(16, 16, 1), layer(kind)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        assert x.shape[1] == 16
        scores: Tensor = self.head((x + self.acting(self.inner(self.second(x)))).mean((2, 3)))
        return scores


class Recurrent(nn.Module):
    """Drops between its layers, by an argument of the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(6, 16, 2, dropout=0.5, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x)[0][:, -1])
        return scores


class Chance(nn.Module):
    """Skips a layer as Python's random numbers say, which no graph holds."""

    def __init__(self, baked: bool) -> None:
        super().__init__()
        self.baked, self.first, self.second, self.head = baked, block(3, 16), block(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        assert not self.baked or x.shape[1] == 16
        if not (self.training and random.random() < 0.5):
            x = x + self.second(x)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def half(model: nn.Module, inputs: tuple[Any, ...], mode: Mode | None = None) -> tuple[Analysis, Pruned]:
    analysis = analyze(model, inputs)
    generator = np.random.default_rng(0)
    saliency = {group.name: generator.random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
    return analysis, apply(model, analysis, plan, mode)


def differs(model: nn.Module, x: Tensor) -> bool:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    with torch.no_grad():
        model.train()
        return not torch.equal(model(x), model(x))


def gradients(model: nn.Module, x: Tensor) -> set[str]:
    """The parameters that a training step moves."""
    outputs = model.train()(x)
    leaves = torch.utils._pytree.tree_leaves(outputs)
    sum((leaf.square().sum() for leaf in leaves), torch.zeros(())).backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None and bool(parameter.grad.any())}


@pytest.mark.parametrize("mode", ["modules", "graph"])
@pytest.mark.parametrize("form", ["tuple", "named", "dict"])
def test_auxiliary_heads_are_cut_along_and_train(form: str, mode: Mode) -> None:
    torch.manual_seed(0)
    dense = Auxiliary(form).eval()
    analysis, pruned = half(dense, INPUT, mode)
    assert not any(group.name.startswith(("aux", "deep")) for group in analysis.groups)
    assert {"stem.0.weight", "middle.0.weight"} <= {name for group in analysis.groups for name in group.producers}
    state = pruned.model.state_dict()
    assert state["aux.0.weight"].shape == (6, 8, 1, 1)
    assert state["deep.weight"].shape == (5, 6 * 16)
    x = torch.randn(4, 3, 16, 16)
    trained = pruned.model.train()(x)
    assert type(trained) is type(dense.train()(x))
    assert len(trained) == 3
    assert gradients(pruned.model, x) == gradients(copy.deepcopy(dense), x)
    evaluated = pruned.model.eval()(x)
    assert (evaluated["out"] if form == "dict" else evaluated).shape == (4, 5)


def test_training_is_what_the_masked_original_trains() -> None:
    """The check sees the auxiliary heads too: a head that reads the wrong channels is an error."""
    torch.manual_seed(0)
    dense = Auxiliary("tuple").eval()
    analysis, pruned = half(dense, INPUT, "modules")
    assert pruned.error < 1e-5
    owner = next(owner for owner in analysis.flow.owners if owner[0] == "aux.0.weight" and owner[1] == (1,))
    analysis.flow.owners[owner] = analysis.flow.owners[owner].flip(1)
    with pytest.raises(VerificationError, match="in training"):
        apply(dense, analysis, pruned.plan, "modules")


def test_a_loss_over_all_outputs_is_trained_saved_and_loaded(tmp_path: Any) -> None:
    torch.manual_seed(0)
    dense = Auxiliary("named").eval()
    data = [(torch.randn(6, 3, 16, 16), torch.arange(6) % 5) for _ in range(3)]
    seen = []

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return functional.cross_entropy(outputs, labels)
        seen.append(type(outputs))
        return sum((functional.cross_entropy(one, labels) for one in outputs), torch.zeros(()))

    job = Task(dense, INPUT, train=data, validation=data, loss=loss, epochs=1)
    for mode in ("modules", "graph"):
        analysis, pruned = half(dense, INPUT, mode)  # type: ignore[arg-type]
        before = {name: value.clone() for name, value in pruned.model.state_dict().items()}
        assert recalibrate(pruned.model, data) == 3
        aux, used = (pruned.model.get_buffer(f"{name}.running_mean") for name in ("aux.1", "stem.1"))
        assert torch.equal(aux, before["aux.1.running_mean"])  # an inference does not run it
        assert not torch.equal(used, before["stem.1.running_mean"])
        assert finetune(pruned.model, job, teacher=dense).steps == 3
        after = pruned.model.state_dict()
        assert seen[-1] is Scores
        assert not torch.equal(after["deep.weight"], before["deep.weight"])
        assert 0 <= score(pruned.model, job) <= 100
        again = load(Auxiliary("named").eval(), save(tmp_path / "model.safetensors", pruned, analysis, INPUT))
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(again(x), pruned.model.eval()(x))
        for one, other in zip(again.train()(x), copy.deepcopy(pruned.model).train()(x), strict=True):
            torch.testing.assert_close(one, other)
        wide = restore(dense, analysis, pruned).eval()
        torch.testing.assert_close(wide(x), pruned.model.eval()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["channels", "places", "alpha", "feature alpha", "depth", "path", "noise", "by hand", "slope"])
def test_what_is_random_in_training_stays_random_in_a_cut_graph(kind: str) -> None:
    torch.manual_seed(0)
    dense = Random(kind).eval()
    analysis, pruned = half(dense, INPUT)
    assert pruned.mode == "graph"
    assert not analysis.unsupported
    x = torch.randn(4, 3, 16, 16)
    assert differs(dense, x)
    assert differs(pruned.model, x)
    assert gradients(pruned.model, x) == set(dict(pruned.model.named_parameters()))
    pruned.model.eval()
    torch.testing.assert_close(pruned.model(x), copy.deepcopy(pruned.model)(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["depth", "path", "channels"])
def test_a_block_goes_from_both_graphs(kind: str) -> None:
    torch.manual_seed(0)
    dense = Random(kind).eval()
    analysis = analyze(dense, INPUT)
    (removable,) = analysis.blocks
    saliency = {group.name: np.random.default_rng(0).random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, dict.fromkeys(removable.groups, 0))
    pruned = apply(dense, analysis, plan)
    assert "second.0.weight" not in pruned.model.state_dict()
    assert not differs(pruned.model, torch.randn(4, 3, 16, 16))  # what acted at random stood in the block


def test_recurrent_layers_drop_between_layers_in_a_cut_graph() -> None:
    torch.manual_seed(0)
    dense = Recurrent().eval()
    _, pruned = half(dense, (torch.zeros(1, 7, 6),), "graph")
    x = torch.randn(4, 7, 6)
    assert differs(dense, x)
    assert differs(pruned.model, x)


def test_frozen_batch_norms_keep_their_statistics_in_a_cut_graph() -> None:
    class Frozen(Random):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.first[1].eval()
            return self

    torch.manual_seed(0)
    dense = Frozen("places").eval()
    _, pruned = half(dense, INPUT)
    assert pruned.mode == "graph"
    held, moved = (pruned.model.get_buffer(f"{name}.1.running_mean").clone() for name in ("first", "second"))
    pruned.model.train()(torch.randn(4, 3, 16, 16))
    assert torch.equal(pruned.model.get_buffer("first.1.running_mean"), held)
    assert not torch.equal(pruned.model.get_buffer("second.1.running_mean"), moved)


class Detector(nn.Module):
    """Raw maps in training, decoded ones otherwise; a width is in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.down = block(3, 16), block(16, 12, 2)
        self.heads = nn.ModuleList([nn.Conv2d(16, 6, 1), nn.Conv2d(12, 6, 1)])

    def forward(self, x: Tensor) -> Any:
        large = self.body(x)
        large = torch.cat(large.split((8, 8), 1), 1)
        maps = [head(value) for head, value in zip(self.heads, (large, self.down(large)), strict=True)]
        return maps if self.training else torch.cat([value.flatten(2) for value in maps], 2).sigmoid()


def test_a_detector_gives_its_raw_maps_in_training() -> None:
    torch.manual_seed(0)
    dense = Detector().eval()
    analysis, pruned = half(dense, INPUT, "graph")
    assert analysis.captured.training is not None
    assert analysis.captured.training.outputs
    x = torch.randn(3, 3, 16, 16)
    maps = pruned.model.train()(x)
    assert [tuple(value.shape) for value in maps] == [(3, 6, 16, 16), (3, 6, 8, 8)]
    assert isinstance(maps, list)
    assert pruned.model.eval()(x).shape == (3, 6, 16 * 16 + 8 * 8)


class ByHand(nn.Module):
    """A batch norm written by hand, and an instance norm that tracks statistics, beside noise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight, self.bias = nn.Conv2d(3, 16, 3), nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16))
        self.register_buffer("mean", torch.rand(16))
        self.register_buffer("var", torch.rand(16) + 0.5)
        self.second, self.norm, self.noise = nn.Conv2d(16, 12, 3), nn.InstanceNorm2d(12, affine=True, track_running_stats=True), Noise()
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.batch_norm(self.first(x), self.mean, self.var, self.weight, self.bias, self.training)
        scores: Tensor = self.head(self.noise(self.norm(self.second(x)).relu()).mean((2, 3)))
        return scores


@pytest.mark.parametrize("mode", ["modules", "graph"])
def test_norms_of_any_make_measure_their_statistics_in_training(mode: Mode) -> None:
    torch.manual_seed(0)
    _, pruned = half(ByHand().eval(), INPUT, mode)
    before = {name: value.clone() for name, value in pruned.model.named_buffers()}
    pruned.model.train()(torch.randn(4, 3, 16, 16))
    for name in ("mean", "norm.running_mean"):
        assert not torch.equal(pruned.model.get_buffer(name), before[name])


def test_what_no_graph_can_hold_is_named() -> None:
    torch.manual_seed(0)
    _, pruned = half(Chance(False).eval(), INPUT)
    assert pruned.mode == "modules"
    assert pruned.inactive == ()
    random.seed(1)
    state = random.getstate()
    analysis, pruned = half(Chance(True).eval(), INPUT)
    assert random.getstate() == state
    assert pruned.mode == "graph"
    assert analysis.captured.training is not None
    assert "random numbers" in analysis.captured.training.why


def test_a_plain_network_has_one_graph() -> None:
    model = nn.Sequential(block(3, 8), nn.Dropout(0.5), nn.Conv2d(8, 4, 1), nn.Dropout2d(0.0)).eval()
    assert analyze(model, INPUT).captured.training is None


def test_analysis_leaves_a_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = Auxiliary("tuple").train()
    model.late.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    analyze(model, INPUT)
    assert model.training
    assert not model.late.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
