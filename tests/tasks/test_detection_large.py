"""The detectors that torchvision ships, with random weights: the same boxes, half of every width as one graph, equal files."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from edgeprune.cost.counts import parameters_of
from edgeprune.export import export
from edgeprune.graph import analyze
from edgeprune.importance import score as saliency_of
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.tasks import detection

pytestmark = pytest.mark.soak

SIZES = {"fasterrcnn_resnet50_fpn": 96, "ssdlite320_mobilenet_v3_large": 320, "retinanet_resnet50_fpn": 96, "fcos_resnet50_fpn": 96}


def shipped(name: str, size: int) -> nn.Module:
    scaled = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: nn.Module = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **scaled)
    return made.eval()


@pytest.mark.parametrize("name", SIZES)
def test_half_of_it_is_one_file_that_answers_the_same(name: str, tmp_path) -> None:
    size = SIZES[name]
    model, images = shipped(name, size), torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    task = detection(model, image_size=size)
    with torch.no_grad():
        found, wanted = task.postprocess(task.model(images)), model(list(images))
    for one, other in zip(found, wanted, strict=True):
        assert all(torch.allclose(one[key].float(), other[key].float(), atol=1e-3) for key in other)
    analysis = analyze(task.model, task.example_inputs)
    assert not analysis.captured.parts
    halves = {group.name: max(1, group.size // 2) for group in analysis.groups}
    pruned = apply(task.model, analysis, plan_from_saliency(analysis, saliency_of(task, analysis, "l2"), halves)).model
    assert parameters_of(pruned) < 0.4 * parameters_of(task.model)
    files = export(pruned, task.example_inputs, ["torchscript", "tflite"], tmp_path)  # raises where outputs differ
    assert all(path.stat().st_size > 1e6 for path in files.values())
