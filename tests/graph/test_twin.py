"""Copies to try things on, and what is seen of a model on shapes alone."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import NothingToPruneError
from edgeprune.graph import analyze
from edgeprune.graph.training import look
from edgeprune.graph.twin import hollow, twin


class Noisy(nn.Module):
    """Adds noise in training only; counts the elements it is given, on whatever device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)
        self.devices: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self.devices.append(x.device.type)
        x = self.norm(self.conv(x)).relu()
        if self.training:
            x = x + torch.randn_like(x)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class Asking(Noisy):
    """Reads a number that it computed: shapes alone do not do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.abs().max()) < 1e9 else x * 0)


def test_a_twin_shares_parameters_and_nothing_else() -> None:
    model = Noisy()
    copy = twin(model)
    assert all(one is other for one, other in zip(model.parameters(), copy.parameters(), strict=True))
    copy.register_forward_hook(lambda *_: None)
    copy.conv.register_forward_pre_hook(lambda *_: None)
    copy.norm.running_mean.fill_(3.0)
    copy.norm.extra = nn.ReLU()
    assert not model._forward_hooks
    assert not model.conv._forward_pre_hooks
    assert not model.norm._forward_hooks
    assert not copy.norm._forward_hooks, "every module has hooks of its own"
    assert float(model.norm.running_mean.abs().max()) == 0.0
    assert "extra" not in dict(model.norm.named_modules())


def test_a_hollow_copy_leaves_the_weights() -> None:
    model = Noisy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert {value.device.type for value in [*hollow(model).parameters(), *hollow(model).buffers()]} == {"meta"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TypeError):
        hollow(model)
    assert twin(model) is model


@pytest.mark.parametrize("kind", [Noisy, Asking])
def test_what_training_does_is_seen_on_shapes_or_else_on_numbers(kind: type[Noisy]) -> None:
    model = kind()
    model.lock = threading.Lock()  # type: ignore[assignment]
    on_numbers = look(model, (torch.randn(2, 3, 8, 8),))
    assert "meta" not in model.devices
    seen = look(kind(), (torch.randn(2, 3, 8, 8),))
    assert seen == on_numbers
    assert seen is not None
    assert seen.layers == ("",)


def test_a_norm_of_one_value_a_channel_is_refused_on_shapes_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4))
    seen = look(model, (torch.randn(1, 3, 8, 8),))
    assert seen is not None
    assert "more than 1 value per channel" in seen.why


def test_garbage_is_collected_again_after_an_analysis() -> None:
    assert gc.isenabled()
    with pytest.raises(NothingToPruneError):
        analyze(nn.Sequential(nn.Linear(4, 2)), (torch.zeros(1, 4),))
    assert gc.isenabled()
