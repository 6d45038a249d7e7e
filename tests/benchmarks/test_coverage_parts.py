"""The coverage benchmark's export check and what it tells the other tool."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import squeezenet1_1

from benchmarks.coverage.export import entry
from benchmarks.coverage.models import awake, half
from benchmarks.coverage.peers import attention_heads, outputs_of
from benchmarks.coverage.zoo import ZOO
from edgeprune.graph import analyze


def test_a_pruned_recurrent_network_is_exported_and_compared_on_other_inputs() -> None:
    model, inputs = ZOO["lstm_bidirectional_2_layers"]()
    pruned = half(awake(model.eval(), inputs), analyze(model, inputs)).model
    row = entry(pruned, inputs, "torchscript")
    assert row["error"] is None
    assert row["difference"] < 1e-5
    assert row["size_bytes"] > 4 * sum(value.numel() for value in pruned.parameters())


def test_what_cannot_be_exported_is_a_row_with_the_reason() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    row = entry(Branch(), (torch.ones(1, 3),), "torchscript")
    assert "captured" in row["error"]


def test_the_other_tool_gets_the_output_layers_and_the_number_of_heads() -> None:
    model = squeezenet1_1()
    assert outputs_of(model, "classification") == [model.classifier[1]]
    encoder = nn.TransformerEncoderLayer(32, 4, 64)
    assert attention_heads(encoder) == {encoder.self_attn: 4}
    assert outputs_of(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "zoo")[0].out_features == 3
