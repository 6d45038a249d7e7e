"""Parameters and multiply-accumulates: what is counted of a plan is what its model has, whatever its layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.cost.counts import counts, parameters_of, total
from edgeprune.cost.kernels import kernels
from edgeprune.graph import Analysis, analyze
from edgeprune.surgery import apply, plan_from_saliency

IMAGE = (torch.zeros(1, 3, 16, 16),)
TOKENS = (torch.zeros(1, 12, dtype=torch.int64),)


class Words(nn.Module):
    """An embedding, two recurrent layers in both directions, a normalisation, and a part that no one calls."""

    def __init__(self, recurrent: Callable[..., nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(100, 16), nn.LayerNorm(48), nn.Linear(48, 4)
        self.layers, self.unused = recurrent(16, 24, 2, batch_first=True, bidirectional=True), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x))[0][:, -1]))


class Decoder(nn.Module):
    """Transposed convolutions, one of them in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.up, self.again, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.again(torch.relu(self.up(torch.relu(self.norm(self.down(x))))))))


class Attention(nn.Module):
    """A transformer's layer over patches; ``first``: the batch comes first."""

    def __init__(self, first: bool = True) -> None:
        super().__init__()
        self.first, self.patch = first, nn.Conv2d(3, 32, 4, 4)
        self.layer, self.head = nn.TransformerEncoderLayer(32, 4, 64, batch_first=first), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.layer(x) if self.first else self.layer(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x.mean(1))


class Residual(nn.Module):
    """Two residual blocks, which may go whole."""

    def __init__(self) -> None:
        super().__init__()

        def branch() -> nn.Module:
            inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            return nn.Sequential(inner, nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList([branch(), branch()]), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class Volume(nn.Module):
    """Convolutions in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 8, (1, 3, 3), groups=4)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3, 4)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "lstm": (Words, TOKENS),
    "gru": (lambda: Words(nn.GRU), TOKENS),
    "decoder": (Decoder, IMAGE),
    "attention": (Attention, IMAGE),
    "sequence-first": (lambda: Attention(False), IMAGE),
    "residual": (Residual, IMAGE),
    "volume": (Volume, (torch.zeros(1, 3, 6, 8, 8),)),
    "batch-of-two": (Residual, (torch.zeros(2, 3, 16, 16),)),
}


def macs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """As PyTorch counts them; on no device, where recurrent layers are the products they are made of."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.to("meta")(*[value.to("meta") for value in inputs])
    return int(counter.get_total_flops() // 2)


def widths(analysis: Analysis, share: float) -> dict[str, int]:
    return {group.name: max(1, round(share * group.size)) for group in analysis.groups}


@cache
def analyzed(name: str) -> tuple[nn.Module, Analysis]:
    """A model and its analysis, which no cut changes."""
    make, inputs = MODELS[name]
    model = make().eval()
    return model, analyze(model, inputs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [1.0, 0.5, pytest.param(0.3, marks=pytest.mark.soak)])
def test_a_plan_has_the_parameters_and_products_that_are_counted(name: str, share: float) -> None:
    (model, analysis), (_, inputs) = analyzed(name), MODELS[name]
    found, chosen = counts(analysis, kernels(analysis)), widths(analysis, share)
    saliency = {group.name: np.random.default_rng(0).random(group.rows.shape) for group in analysis.groups}
    pruned = apply(model, analysis, plan_from_saliency(analysis, saliency, chosen)).model.eval()
    assert total(found.parameters, chosen) == pytest.approx(parameters_of(pruned), abs=0.01)
    assert total(found.macs, chosen) == pytest.approx(macs_of(pruned, inputs), rel=1e-9)


def test_a_block_that_goes_takes_all_its_parameters_with_it() -> None:
    model = Residual().eval()
    analysis = analyze(model, IMAGE)
    found, chosen = counts(analysis, kernels(analysis)), widths(analysis, 0.5)
    gone = analysis.blocks[0]
    chosen |= dict.fromkeys(gone.groups, 0)
    saliency = {group.name: np.ones(group.rows.shape) for group in analysis.groups}
    pruned = apply(model, analysis, plan_from_saliency(analysis, saliency, chosen)).model.eval()
    assert total(found.parameters, chosen) == pytest.approx(parameters_of(pruned), abs=0.01)
    assert total(found.macs, chosen) == pytest.approx(macs_of(pruned, IMAGE), rel=1e-9)


def test_what_no_kernel_holds_is_told_apart() -> None:
    _, analysis = analyzed("lstm")
    loose = counts(analysis, kernels(analysis)).loose
    assert sorted(term.count for term in loose) == [48, 48, 1600]  # the normalisation's two and the embedding
