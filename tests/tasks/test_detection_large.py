"""The detectors that torchvision ships, whole: pruned to half their latency as one graph, exported, with the same answers."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import edgeprune
from edgeprune.export.evaluate import score_file
from edgeprune.search.options import Options
from edgeprune.task import device_inputs
from edgeprune.tasks import detection

pytestmark = pytest.mark.soak
pytest.importorskip("pycocotools", reason="mean average precision needs pycocotools")

SIZES = {"ssdlite320_mobilenet_v3_large": 320, "retinanet_resnet50_fpn": 128, "fcos_resnet50_fpn": 128, "fasterrcnn_resnet50_fpn": 128}


def shipped(name: str, size: int) -> nn.Module:
    scaled = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: nn.Module = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **scaled)
    return made.eval()


@pytest.mark.parametrize("name", SIZES)
def test_half_of_it_is_one_file_that_answers_the_same(name: str, tmp_path) -> None:
    size = SIZES[name]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = (images, [{"boxes": torch.tensor([[10.0, 10, 90, 100]]), "labels": torch.tensor([3])}] * 2)
    formats = ("torchscript", "tflite")
    task = detection(shipped(name, size), train=[batch], test=[batch], image_size=size, epochs=0, name=name, device="cpu")
    options = Options(formats=formats, objective="magnitude", reconstruction=False)
    result = edgeprune.prune(task, profile="raspberry-pi-4", budget=edgeprune.Budget(latency="50%"), options=options, runs=tmp_path)
    dense, pruned = result.figures.dense.latency_ms, result.figures.pruned.latency_ms
    assert dense is not None
    assert pruned is not None
    assert pruned <= 0.5 * dense
    inputs = device_inputs(task.example_inputs)
    with torch.no_grad():
        before, after = task.model.eval()(*inputs), result.model(*inputs)
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    assert set(result.artifacts) == set(formats)  # each was written only because its outputs equal the model's
    scores = [score_file(path, task) for path in result.artifacts.values()]
    assert scores[0] == pytest.approx(scores[1], abs=0.5)
