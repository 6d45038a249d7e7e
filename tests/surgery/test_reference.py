"""The masked original that cuts are compared with: it computes what the model's operations do, whatever its modules add or keep."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.graph import analyze
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.surgery.apply import Pruned
from edgeprune.testing.networks import awake


def halved(model: nn.Module, inputs: tuple[Any, ...]) -> Pruned:
    analysis = analyze(model, inputs)
    random = np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    return apply(
        model, analysis, plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
    )


class Activated(nn.BatchNorm2d):
    """A batch norm whose forward ends in an activation, as timm's does."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardswish(super().forward(x))


class Doubled(nn.BatchNorm2d):
    """Its forward begins with something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 - 0.5)


class Spelled(nn.BatchNorm2d):
    """Its forward calls the function."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps).abs()


class Squeezed(nn.Module):
    """Squeeze and excite behind a norm of its own."""

    def __init__(self, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), norm(12)
        self.squeeze, self.excite, self.head = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        scores: Tensor = self.head(x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid())
        return scores


@pytest.mark.parametrize("norm", [Activated, Doubled, Spelled])
def test_a_batch_norm_may_do_more_in_its_forward(norm: type[nn.BatchNorm2d]) -> None:
    pruned = halved(awake(Squeezed(norm)), (torch.randn(1, 3, 8, 8),))
    assert pruned.error < 1e-5
    assert pruned.mode == "modules"


class Keeping(nn.Module):
    """Keeps a tensor of its own from one evaluation to the next, or from the start, in no buffer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.kept, self.last = kind, {}, None
        self.stem, self.scale, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.rand(8)), nn.Linear(8, 4)
        self.table = torch.rand(8) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.exp()
        if self.kind == "by device" and not self.training:
            scale = self.kept.setdefault(x.device, scale)
        elif self.kind == "attribute" and not self.training:
            self.last = scale if self.last is None else self.last
            scale = self.last
        elif self.kind == "from the start":
            scale = scale * self.table
        scores: Tensor = self.head((self.stem(x) * scale[:, None, None]).relu().mean((2, 3)))
        return scores


@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("kind", ["by device", "attribute", "from the start"])
def test_what_a_model_keeps_in_no_buffer_is_cut_too(kind: str, ran_before: bool) -> None:
    torch.manual_seed(0)
    model, inputs = Keeping(kind).eval(), (torch.randn(1, 3, 8, 8),)
    if ran_before:
        with torch.no_grad():
            model(*inputs)
    pruned = halved(model, inputs)
    assert pruned.error < 1e-5
    assert sum(value.numel() for value in pruned.model.parameters()) < 0.7 * sum(value.numel() for value in model.parameters())
    pruned.model.train()(torch.randn(3, 3, 8, 8)).sum().backward()
    assert all(value.grad is not None for value in pruned.model.parameters())


class Attending(nn.Module):
    """Attention with a bias, with a view of its result, or with an empty part."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv, self.out, self.head = kind, nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.extra, self.bias = nn.Parameter(torch.zeros(1, 0, 16)), nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "empty tokens":
            x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mask = self.bias if self.kind == "bias" else None
        y = functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=0.2 if self.training else 0.0).permute(0, 2, 1, 3)
        y = y.contiguous().view(x.shape[0], 6, 16) if self.kind == "bias" else y.reshape(x.shape[0], 6, 16)
        scores: Tensor = self.head((x + self.out(y)).mean(1))
        return scores


@pytest.mark.parametrize("kind", ["plain", "bias", "empty tokens"])
def test_attention_does_not_depend_on_memory_and_draws_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model = Attending(kind).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analysis = analyze(model, (torch.randn(1, 6, 16),))
    assert analysis.random == []
    assert torch.ops.aten.view.default not in {node.target for node in analysis.captured.module.graph.nodes}
    pruned = halved(model, (torch.randn(1, 6, 16),))
    assert pruned.error < 1e-5
    assert pruned.model(torch.randn(5, 6, 16)).shape == (5, 3)


class Chosen(nn.Module):
    """The best three places of eight, picked by an index that is repeated over the channels."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem, self.score, self.head = kind, nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        best = self.score(y).squeeze(-1).topk(3, 1).indices
        if self.kind == "repeated":
            y = y.gather(1, best.unsqueeze(-1).repeat(1, 1, 16))
        elif self.kind == "expanded":
            y = torch.gather(y, 1, best.unsqueeze(-1).expand(-1, -1, y.shape[-1]))
        else:
            y = torch.gather(y.mT, 2, best.unsqueeze(1).tile(1, 16, 1)).mT
        scores: Tensor = self.head(y.mean(1))
        return scores


@pytest.mark.parametrize("kind", ["repeated", "expanded", "transposed"])
def test_a_gather_whose_index_is_repeated_over_channels_is_cut(kind: str) -> None:
    torch.manual_seed(0)
    pruned = halved(Chosen(kind).eval(), (torch.randn(1, 8, 6),))
    assert pruned.error < 1e-5
    assert pruned.model.get_parameter("stem.weight").shape == (8, 6)
    assert pruned.model(torch.randn(5, 8, 6)).shape == (5, 4)
