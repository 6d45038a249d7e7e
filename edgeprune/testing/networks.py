"""Small models that tests share: each is a shape that pruning tools get wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class OptionA(nn.Module):
    """A residual net whose shortcut is a strided slice and zero channels: sizes are baked into its code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        x = functional.relu(y + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        scores: Tensor = self.head(functional.avg_pool2d(x, 4).flatten(1))
        return scores


class Shuffle(nn.Module):
    """Channel split, concatenation and shuffle, grouped and depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.grouped = nn.Conv2d(16, 32, 3, 1, 1, groups=4)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)
        scores: Tensor = self.head(functional.relu(self.grouped(x)).mean((2, 3)))
        return scores


class Gated(nn.Module):
    """Squeeze-and-excite, a spatial gate of one channel, and a dense concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 1, 1)
        self.squeeze = nn.Conv2d(12, 6, 1)
        self.excite = nn.Conv2d(6, 12, 1)
        self.spatial = nn.Conv2d(12, 1, 1)
        self.grow = nn.Conv2d(12, 8, 3, 1, 1)
        self.norm = nn.BatchNorm2d(20)
        self.head = nn.Linear(20 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.stem(x))
        x = x * torch.sigmoid(self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))))
        x = x * torch.sigmoid(self.spatial(x))
        x = torch.cat([x, self.grow(x)], 1)
        scores: Tensor = self.head(functional.adaptive_avg_pool2d(functional.relu(self.norm(x)), 2).flatten(1))
        return scores


def awake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and zero-initialised layers as after training: a fresh model would hide mistakes behind zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            for tensor, low in ((module.running_var, 0.5), (module.running_mean, -0.5)):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                spread = 0.5 if parameter.dim() == 1 else 0.05
                parameter.add_(spread * (2 * torch.rand(parameter.shape, generator=generator) - 1))
    return model.eval()
