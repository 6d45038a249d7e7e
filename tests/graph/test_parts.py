"""Models that no single graph holds: their parts take any number of samples, and share the weights that the model shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph import Analysis, analyze
from edgeprune.surgery import Plan, apply, load, plan_from_saliency, restore, save
from edgeprune.testing.networks import awake


class Layer(nn.Module):
    """Two linear layers whose code has their sizes, over (tokens, samples, width) or (samples, tokens, width)."""

    def __init__(self, time_first: bool) -> None:
        super().__init__()
        self.time_first, self.up, self.down = time_first, nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.shape[:2]
        batch, tokens = (other, one) if self.time_first else (one, other)
        y = self.up(x).relu().reshape(tokens if self.time_first else batch, -1, 2, 8)
        result: Tensor = x + self.down(y.flatten(2) if batch and tokens else y)
        return result


class Ends(nn.Module):
    """Tokens in, scores out, with a choice between that depends on the data."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(20, 8)
        self.reads = nn.ModuleDict({"tokens": self.table})
        self.body = Layer(kind == "time first")
        self.scores = nn.Linear(8, 20, bias=False)
        if kind == "tied":
            self.scores.weight = self.table.weight
        self.twice = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        self.again = self.twice if kind != "shared layer" else nn.Sequential(self.twice[0], nn.Tanh(), self.twice[2])

    def forward(self, x: Tensor) -> Tensor:
        y = self.reads["tokens"](x)
        if bool((y > 1e9).any()):
            y = -y
        y = self.again(self.twice(y))
        y = self.body(y.transpose(0, 1)).transpose(0, 1) if self.kind == "time first" else self.body(y)
        result: Tensor = self.scores(y)
        return result


def half(analysis: Analysis) -> Plan:
    saliency = {group.name: np.arange(group.rows.size, dtype=float).reshape(group.rows.shape) for group in analysis.groups}
    return plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})


@pytest.mark.parametrize("kind", ["time first", "tied", "shared layer"])
def test_parts_take_any_batch_and_share_what_the_model_shares(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Ends(kind).eval(), (torch.randint(0, 20, (1, 5)),)
    analysis = analyze(model, inputs)
    assert len(analysis.captured.parts) > 2
    assert analysis.captured.any_batch
    assert analysis.captured.misfit((torch.zeros(7, 5),)) == ""
    pruned = apply(model, analysis, half(analysis), "graph")
    assert pruned.error < 1e-5
    more = (torch.randint(0, 20, (3, 5)),)
    assert torch.allclose(pruned.model.eval()(*more), restore(model, analysis, pruned).eval()(*more), atol=1e-5)
    pruned.model.train()(*more).square().sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.model.parameters())
    assert len(list(pruned.model.parameters())) == len(list(model.parameters()))
    loaded = load(Ends(kind), save(tmp_path / "parts.safetensors", pruned, analysis, inputs))
    assert torch.equal(loaded.eval()(*more), pruned.model.eval()(*more))


class Pair(nn.Module):
    """A part that only takes the batch of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Layer(False), nn.Linear(8, 2)
        self.fixed = nn.Sequential(nn.Linear(8, 12), nn.Unflatten(0, (1, -1)), nn.Flatten(0, 1), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or bool((x > 1e9).any()):
            raise ValueError("too large")
        result: Tensor = self.head(self.body(self.fixed(x[0]).reshape(1, -1, 8)).mean(1))
        return result


def test_a_batch_that_the_parts_do_not_take_is_named() -> None:
    analysis = analyze(Pair().eval(), (torch.randn(1, 5, 8),))
    if not analysis.captured.any_batch:
        assert analysis.captured.misfit((torch.zeros(1, 5, 8),)) == ""
        said = "its parts were captured for a batch of 1, and a batch has 4 samples"
        assert analysis.captured.misfit((torch.zeros(4, 5, 8),)) == said


class Detector(nn.Module):
    """A backbone and a head around a filter whose shapes depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1))
        self.scores = nn.Conv2d(8, 1, 1)
        self.head = nn.ModuleDict({"box": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))})

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        features = self.backbone(torch.stack(images))
        picked = features.permute(0, 2, 3, 1)[(self.scores(features) > 0)[:, 0]]
        return [{"boxes": self.head["box"](picked)}]


@pytest.mark.parametrize("mode", ["modules", "graph"])
def test_a_detector_is_captured_by_submodule(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = awake(Detector()), ([torch.randn(3, 16, 16), torch.randn(3, 16, 16)],)
    analysis = analyze(model, inputs)
    assert [part.name for part in analysis.captured.parts] == ["backbone", "scores", "head.box"]
    assert {group.name for group in analysis.groups} == {"backbone.0", "head.box.0"}
    pruned = apply(model, analysis, half(analysis), mode)
    assert pruned.error < 1e-5
    assert pruned.model(*inputs)[0]["boxes"].shape == model(*inputs)[0]["boxes"].shape
    loaded = load(Detector(), save(tmp_path / "detector.safetensors", pruned, analysis, inputs))
    assert torch.equal(loaded(*inputs)[0]["boxes"], pruned.model(*inputs)[0]["boxes"])
