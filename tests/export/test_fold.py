"""Batch norms folded into convolutions compute the same, and those that cannot be folded stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from edgeprune.export.passes.fold import fold_batch_norms


def captured(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> GraphModule:
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.1, 3)
    module = torch.export.export(model.eval(), inputs).module()
    assert isinstance(module, GraphModule)
    return module


def norms(module: GraphModule) -> int:
    return sum(node.target is torch.ops.aten.batch_norm.default for node in module.graph.nodes)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)), (1, 3, 5, 5)),
        (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6, eps=1e-3)), (1, 6, 5, 5)),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)), (1, 3, 5, 5)),
        (nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (1, 3, 9)),
        (nn.Sequential(nn.Conv3d(3, 6, 2, bias=False), nn.BatchNorm3d(6)), (1, 3, 4, 4, 4)),
    ],
)
def test_folded_and_equal(model, shape):
    torch.manual_seed(0)
    inputs = (torch.randn(shape),)
    module = captured(model, inputs)
    expected = module(*inputs)
    assert fold_batch_norms(module) == 1
    assert norms(module) == 0
    torch.testing.assert_close(module(*inputs), expected, rtol=1e-5, atol=1e-5)


class Shared(nn.Module):
    """A convolution whose output has two readers, one of them a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x)
        return self.norm(x) + x


class Twice(nn.Module):
    """One convolution used twice, with a batch norm of its own each time."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.convolution(self.first(self.convolution(x))))


@pytest.mark.parametrize(
    ("model", "folded", "kept"),
    [
        (Shared(), 0, 1),
        (Twice(), 2, 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), 0, 1),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)), 0, 1),
    ],
)
def test_what_may_not_be_folded_stays(model, folded, kept):
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 5, 5),)
    module = captured(model, inputs)
    expected = module(*inputs)
    assert fold_batch_norms(module) == folded
    assert norms(module) == kept
    torch.testing.assert_close(module(*inputs), expected, rtol=1e-5, atol=1e-5)
