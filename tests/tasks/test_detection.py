"""Detectors of torchvision as tasks: the same boxes and losses as its own, pruned as one graph, exported whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectors import KINDS, LABELS, SIZE, detector, squares
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError, RecipeError, TrainingStoppedError
from edgeprune.export import export, read_metadata
from edgeprune.export.evaluate import score_file
from edgeprune.export.metadata import task_metadata
from edgeprune.export.options import ExportOptions
from edgeprune.graph import analyze
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tasks import detection
from edgeprune.tasks.boxes import Level
from edgeprune.tuning import finetune, score, score_with_error

pytest.importorskip("torchmetrics", reason="mean average precision needs torchmetrics")
pytest.importorskip("pycocotools", reason="mean average precision needs pycocotools")


def task_of(kind: str, model: nn.Module | None = None, **settings: object) -> Task:
    data = {"train": [squares(20, 1), squares(20, 2)], "test": [squares(10, 3), squares(10, 4)]}
    return detection(model or detector(kind), **(data | {"image_size": SIZE, "device": "cpu", "name": kind} | settings))


def halved(task: Task) -> nn.Module:
    analysis = analyze(task.model, task.example_inputs)
    assert not analysis.captured.parts, "the network is one graph"
    random = np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    pruned = apply(task.model, analysis, plan_from_saliency(analysis, saliency, {g.name: max(1, g.size // 2) for g in analysis.groups}))
    return pruned.model


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_those_of_the_whole_detector(kind: str, decode: bool) -> None:
    model, (images, _) = detector(kind), squares(3, 5)
    task = task_of(kind, model, decode=decode)
    with torch.no_grad():
        found, wanted = task.postprocess(task.model(images)), model(list(images))
    for one, other in zip(found, wanted, strict=True):
        assert len(other["boxes"]) > 5
        assert torch.equal(one["labels"], other["labels"])
        assert torch.allclose(one["boxes"], other["boxes"], atol=1e-4)
        assert torch.allclose(one["scores"], other["scores"], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_detectors_own(kind: str) -> None:
    model = detector(kind)
    task = task_of(kind, model)
    images, targets = squares(5, 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # Faster R-CNN samples its regions
        loss = task.loss(task.model.train()(images), targets)
        torch.manual_seed(0)
        wanted = sum(model.train()(list(images), [dict(target) for target in targets]).values())
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    loss.backward()
    assert all(value.grad is not None for name, value in task.model.named_parameters() if "head.classification_head.cls_logits" in name)


@pytest.mark.parametrize("kind", ["SSD", "RetinaNet", "FCOS", "FasterRCNN"])
def test_half_a_detector_is_one_file_that_answers_the_same(kind: str, tmp_path) -> None:
    task = task_of(kind)
    pruned = halved(task)
    assert sum(value.numel() for value in pruned.parameters()) < 0.9 * sum(value.numel() for value in task.model.parameters())
    path = export(pruned, task.example_inputs, ["torchscript"], tmp_path)["torchscript"]
    assert score_file(path, task) == pytest.approx(score(pruned, task), abs=1e-3)


def test_tflite_holds_the_decoded_boxes_and_says_what_they_mean(tmp_path) -> None:
    task = task_of("SSD", labels=LABELS)
    options = ExportOptions(metadata=task_metadata(task))
    path = export(halved(task), task.example_inputs, ["tflite"], tmp_path, options=options)["tflite"]
    found = read_metadata(path)
    assert found["labels"] == ["background", *LABELS]
    decoding = found["preprocessing"]["decoding"]
    assert decoding["boxes"] == "x1, y1, x2, y2 in pixels"
    assert decoding["strides"] == [[8.0, 8.0], [16.0, 16.0]]
    assert decoding["activation"] == "softmax"


def test_it_learns_to_find_squares() -> None:
    task = task_of("SSD", labels=LABELS, epochs=12, learning_rate=0.02, distillation=0.0)
    before = score_with_error(task.model, task)
    found = finetune(task.model, task)
    assert found.score is not None
    assert found.score > before.value + 10
    assert before.how is not None


def test_a_student_is_taught_by_the_boxes_that_the_teacher_is_sure_of() -> None:
    task = task_of("RetinaNet")
    images, _ = squares(2, 7)
    outputs = task.model(images)
    moved = {name: value + (1.0 if name == "boxes" else 0.0) for name, value in outputs.items()}
    assert task.distance(outputs, outputs).item() == pytest.approx(0.0, abs=1e-6)
    assert task.distance(moved, outputs).item() > 1e-4


def test_anchors_are_said_in_short() -> None:
    task = task_of("SSD", decode=False)
    decoding = task.preprocessing["decoding"]
    levels = [Level(tuple(one["grid"]), tuple(one["step"]), tuple(one["cells"])) for one in decoding["anchors"]]
    assert torch.allclose(torch.cat([level.anchors() for level in levels]), task.postprocess.decoder.anchors, atol=1e-4)


# --- what is wrong is named ------------------------------------------------------------------------------------------


def wrong(change) -> list[tuple[Tensor, list[dict[str, Tensor]]]]:
    first, second = squares(4, 1), squares(4, 2)
    change(second[1][2])
    return [first, second]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda target: target.update(boxes=torch.tensor([[10.0, 10, 90, 30]])), "sample 6 .*outside of the picture of 64 x 64"),
        (lambda target: target.update(boxes=torch.tensor([[30.0, 10, 10, 30]])), "sample 6 .*is no box"),
        (lambda target: target.update(boxes=torch.tensor([[30.0, float("nan"), 40, 30]])), "sample 6 .*is no box"),
        (lambda target: target.update(labels=torch.tensor([9])), "sample 6 .*label 9 is none of 1 to 3"),
        (lambda target: target.update(labels=torch.tensor([1, 2])), "sample 6 .*boxes are a tensor"),
        (lambda target: target.pop("boxes"), "sample 6 .*not a dict of boxes and labels"),
    ],
)
def test_a_wrong_target_is_named_by_its_sample(change, said: str) -> None:
    task = task_of("SSD", test=wrong(change))
    with pytest.raises(RecipeError, match=said):
        score(task.model, task)


def test_images_of_any_size_are_scaled_with_their_boxes() -> None:
    large = torch.rand(3, 128, 192)
    batch = ([large, torch.rand(3, 64, 64)], [{"boxes": [[30, 20, 90, 60]], "labels": [1]}, {"boxes": [], "labels": []}])
    task = task_of("SSD", train=[batch])
    ((images, targets),) = list(task.train)
    assert images.shape == (2, 3, SIZE, SIZE)
    assert targets[0]["boxes"].tolist() == [[10, 10, 30, 30]]
    assert targets[1]["boxes"].shape == (0, 4)
    assert task.loss(task.model(images), targets).isfinite()


def test_without_any_box_there_is_no_average_precision() -> None:
    empty = (torch.rand(2, 3, SIZE, SIZE), [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 2)
    task = task_of("SSD", test=[empty])
    with pytest.raises(RecipeError, match="no image of the validation data has a box"):
        score(task.model, task)


def test_a_class_that_never_occurs_is_warned_of() -> None:
    images, targets = squares(4, 1)
    for target in targets:
        target["labels"] = target["labels"].clamp(max=2)
    task = task_of("SSD", test=[(images, targets)], labels=LABELS)
    with pytest.warns(UserWarning, match="no box of the validation data is blue"):
        score(task.model, task)


def test_a_postprocess_that_raises_is_named_with_the_sample() -> None:
    def raising(outputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        if (outputs["logits"].flatten(1).abs().amax(1) > 1e3).any():
            raise ValueError("too large")
        return plain(outputs)

    images, targets = squares(4, 1)
    images[3] = 1e6
    task = task_of("SSD", test=[squares(4, 2), (images, targets)])
    plain = task.postprocess
    task.postprocess = raising
    with pytest.raises(TrainingStoppedError, match="postprocess of task SSD raised ValueError on validation sample 7: too large"):
        score(task.model, task)


def test_an_answer_that_the_metric_does_not_take_is_named_with_the_sample() -> None:
    task = task_of("SSD")
    plain = task.postprocess

    def without_scores(outputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        return [{"boxes": one["boxes"], "labels": one["labels"]} for one in plain(outputs)]

    task.postprocess = without_scores
    with pytest.raises(TrainingStoppedError, match=r"the mAP50 of task SSD raised .* on validation sample 0"):
        score(task.model, task)


def test_what_is_no_detector_needs_a_loss_and_a_postprocess() -> None:
    with pytest.raises(RecipeError, match="loss and postprocess is not given"):
        detection(nn.Conv2d(3, 4, 1), image_size=SIZE)
    with pytest.raises(RecipeError, match="metric_name"):
        task_of("SSD", metric_name="accuracy")
    with pytest.raises(RecipeError, match="2 labels are given, and the model tells 3 classes apart"):
        task_of("SSD", labels=("red", "green"))
    with pytest.raises(EdgepruneError, match="one size"):
        detection(detector("RetinaNet"))
