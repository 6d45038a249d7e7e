"""What may be pruned: groups, fixed channels, operations without rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import CaptureError, GraphError, NothingToPruneError
from edgeprune.graph import analyze
from edgeprune.graph.labels import along, canonical, varying
from edgeprune.graph.registry import rule
from edgeprune.testing.networks import Gated, OptionA, Shuffle

IMAGE = (torch.zeros(1, 3, 8, 8),)


def test_option_a_shortcut_ties_the_stages_and_frees_the_padding() -> None:
    groups = {group.name: group for group in analyze(OptionA(), IMAGE).groups}
    assert {name: group.channels for name, group in groups.items()} == {"stem": 8, "conv1": 16, "conv2": 8}
    assert "conv2.weight" in groups["stem"].producers  # the middle channels of the second stage are the stem's


def test_grouped_convolution_keeps_equal_rows() -> None:
    analysis = analyze(Shuffle(), IMAGE)
    grouped = next(group for group in analysis.groups if "grouped.weight" in group.producers)
    assert grouped.rows.shape == (4, 8)
    assert any("4 groups" in text for text in grouped.constraints)


def test_a_spatial_gate_does_not_tie_channels() -> None:
    analysis = analyze(Gated(), IMAGE)
    stem = next(group for group in analysis.groups if group.name == "stem")
    assert stem.size == 12
    assert "excite.weight" in stem.producers
    assert any("stretched" in reason for reason in analysis.fixed.values())


def test_protected_modules_stay() -> None:
    names = {group.name for group in analyze(Gated(), IMAGE, protect=["grow"]).groups}
    assert "grow" not in names
    assert "squeeze" in names
    with pytest.raises(GraphError, match="nowhere"):
        analyze(Gated(), IMAGE, protect=["nowhere"])


class Unknown(nn.Module):
    """An operation that has no rule, on one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.third = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(torch.linalg.qr(self.first(x)).Q).relu()).mean((2, 3))


def test_an_unknown_operation_is_named_and_fixes_what_it_touches() -> None:
    analysis = analyze(Unknown(), IMAGE)
    assert [op for _, op in analysis.unsupported] == ["aten.linalg_qr.default"]
    assert [group.name for group in analysis.groups] == ["second"]
    assert any("linalg_qr" in reason for reason in analysis.fixed.values())


def test_nothing_to_prune_says_why() -> None:
    with pytest.raises(NothingToPruneError, match="nothing can be pruned") as raised:
        analyze(nn.Sequential(nn.Conv2d(3, 8, 1)), IMAGE)
    assert "reaches the model's output" in str(raised.value)


def test_example_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(CaptureError, match=r"\(1, 4, 8, 8\)"):
        analyze(OptionA(), (torch.zeros(1, 4, 8, 8),))


class Forked(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(-x)


def test_data_dependent_control_flow_is_an_error_that_says_so() -> None:
    with pytest.raises(CaptureError, match="Forked"):
        analyze(Forked(), IMAGE)


def test_the_model_is_left_as_it_was() -> None:
    model = OptionA().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    analyze(model, IMAGE)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_second_rule_for_an_operation_is_an_error() -> None:
    analyze(OptionA(), IMAGE)  # registers the rules
    with pytest.raises(ValueError, match="already"):
        rule(torch.ops.aten.linear.default)(lambda flow, node: None)


def test_labels_that_do_not_change_cost_nothing() -> None:
    labels = along(torch.arange(1, 5), (2, 4, 64, 64), 1)
    assert labels.untyped_storage().nbytes() == 4 * 8
    assert varying(canonical(labels.clone())) == [1]
