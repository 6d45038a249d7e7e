"""The arena as it is foreseen: TFLite Micro's planner, against TFLite Micro itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.cost.arena import greedy_arena
from edgeprune.cost.kernels import kernels
from edgeprune.cost.memory import memory_model
from edgeprune.cost.weights import FLOAT32, INT8_MICRO
from edgeprune.graph import analyze
from edgeprune.micro import MicroGraph, measure_arena, read_graph
from edgeprune.testing.networks import OptionA

pytest.importorskip("tflite_micro")


def buffers_of(graph: MicroGraph) -> list[tuple[float, int, int]]:
    """Every activation's bytes and life, straight from a file."""
    lives: dict[int, tuple[float, int, int]] = {id(tensor): (tensor.bytes, 0, 0) for tensor in graph.inputs}
    for step, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            if tensor is not None and not tensor.constant:
                size, first, _ = lives[id(tensor)]
                lives[id(tensor)] = size, first, step
        for tensor in operator.outputs:
            lives[id(tensor)] = tensor.bytes, step, step
    for tensor in graph.outputs:
        size, first, _ = lives[id(tensor)]
        lives[id(tensor)] = size, first, len(graph.operators)
    return list(lives.values())


@pytest.mark.parametrize("name", ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"])
def test_the_planner_lays_the_mlperf_tiny_models_as_tflite_micro_does(models_folder: Path, name: str) -> None:
    content = (models_folder / f"{name}.tflite").read_bytes()
    assert greedy_arena(buffers_of(read_graph(content, name))) == measure_arena(content, name).head_bytes


@pytest.mark.parametrize(
    ("buffers", "size"),
    [
        ([], 0),
        ([(1, 0, 0)], 16),
        ([(16, 0, 1), (16, 1, 2), (16, 2, 3)], 32),  # the third takes the first's place
        ([(32, 0, 0), (16, 0, 2), (64, 2, 3)], 80),  # the largest first, the others behind what they live beside
        ([(48, 1, 2), (32, 0, 1), (32, 2, 3), (32, 3, 4), (16, 0, 4)], 96),  # equals: the latest first
    ],
)
def test_buffers_share_what_they_do_not_use_at_once(buffers: list[tuple[float, int, int]], size: int) -> None:
    assert greedy_arena(buffers) == size


def test_gaps_are_counted() -> None:
    """A residual block and the padding after it: the planner needs more than what is alive at once (49,152 bytes)."""
    block = 16 * 16 * 64
    buffers = [(block, 0, 2), (block, 1, 2), (block, 2, 3), (18 * 18 * 64, 3, 4), (8 * 8 * 128, 4, 5)]
    assert greedy_arena(buffers) == 53_504


def test_the_model_predicts_int8_activations_and_padding_apart() -> None:
    """OptionA's second convolution has stride 2 and PyTorch's symmetric padding: TFLite pads apart, to 10 x 10."""
    analysis = analyze(OptionA(), (torch.zeros(1, 3, 8, 8),))
    dense = {group.name: group.size for group in analysis.groups}
    micro, real = (memory_model(kernels(analysis), storage) for storage in (INT8_MICRO, FLOAT32))
    stem = 8 * 8 * 8
    assert micro.activations(dense) >= stem + 10 * 10 * 8
    assert micro.activations(dense) % 16 == 0
    assert micro.activations(dense) < real.activations(dense)
    unpadded = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    analysis = analyze(unpadded, (torch.zeros(1, 3, 8, 8),))
    dense = {group.name: group.size for group in analysis.groups}
    assert memory_model(kernels(analysis), INT8_MICRO).activations(dense) == stem + 4 * 8 * 8
