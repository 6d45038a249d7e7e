"""Models of every kind, half of every group removed at random: what is left computes what the masked original computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.coverage.child import macs, prunable_share
from benchmarks.coverage.models import awake, half
from benchmarks.coverage.zoo import ZOO
from edgeprune.graph import analyze
from edgeprune.surgery import masked, outputs_of

LONG = (  # relatives of them are tested in tests/graph as well
    *("lstm_2_layers", "lstm_bidirectional_2_layers", "lstm_projected", "gru", "gru_2_layers", "rnn_bidirectional_2_layers"),
    *("transformer_encoder_norm_first", "hf_bert", "hf_vit"),
)
CASES = [pytest.param(name, marks=pytest.mark.soak) if name in LONG else name for name in ZOO if not name.startswith(("hf_", "keras_"))]
HUGGING_FACE = [pytest.param(name, marks=pytest.mark.soak) if name in LONG else name for name in ZOO if name.startswith("hf_")]


def built(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model, inputs = ZOO[name]()
    return awake(model.eval(), inputs), inputs


def check(name: str) -> None:
    """Prune half, and compare on inputs that the analysis did not see."""
    model, inputs = built(name)
    before = copy.deepcopy(model.state_dict())
    analysis = analyze(model, inputs)
    assert analysis.unsupported == []
    assert prunable_share(analysis, model)[0] >= 0.95
    pruned = half(model, analysis)
    fresh = tuple(torch.randn_like(value) if value.is_floating_point() else value.flip(-1) for value in inputs)
    dense, expected, got = (
        outputs_of(model, fresh),
        outputs_of(masked(model, analysis, pruned.plan), fresh),
        outputs_of(pruned.model, fresh),
    )
    for one, other, whole in zip(got, expected, dense, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
        assert not torch.allclose(one, whole, rtol=1e-2, atol=1e-3)  # something was removed that mattered
    assert 0.1 < macs(pruned.model, inputs) / macs(model, inputs) < 0.55
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_half_of_every_group_goes_exactly(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_transformers_of_hugging_face_are_ordinary_models(name: str) -> None:
    pytest.importorskip("transformers")
    check(name)


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("lstm", [(1, 32)]),
        ("lstm_projected", [(2, 32), (2, 16)]),  # two layers of one module keep equally many, each its own
        ("har_cnn", [(1, 32), (1, 64), (1, 64), (1, 64)]),
        ("transformer_encoder", [(1, 32), (1, 4), (1, 64), (1, 4), (1, 64)]),  # width; heads and feed-forward of both layers
    ],
)
def test_the_groups_are_what_the_architecture_says(name: str, units: list[tuple[int, int]]) -> None:
    model, inputs = built(name)
    found = sorted(group.rows.shape for group in analyze(model, inputs).groups)
    assert found == sorted(units)
