"""Metrics with state and their standard errors, and drops judged with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune import Budget, Task
from edgeprune.budget import format_score
from edgeprune.errors import RecipeError, TrainingError
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.search.verdicts import judge_budget
from edgeprune.tuning import Score, score, score_with_error
from edgeprune.verdict import Verdict

torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

NOTHING = ModelMetrics(*[None] * 6)  # type: ignore[arg-type]
EXAMPLE = (torch.zeros(1, 3),)


def batches(seed: int = 0, sizes: tuple[int, ...] = (40, 40, 17)) -> list[tuple[Tensor, Tensor]]:
    """Scores of three classes as inputs, of which most are right; the last batch is smaller."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        labels = torch.randint(0, 3, (size,), generator=generator)
        found.append((torch.randn(size, 3, generator=generator) + 1.5 * nn.functional.one_hot(labels, 3), labels))
    return found


def scoring(metric: Any = None, data: Any = None, **settings: Any) -> Task:
    given = {} if metric is None else {"metric": metric}
    return Task(nn.Identity(), EXAMPLE, validation=batches() if data is None else data, name="scores", **given, **settings)


def test_accuracy_has_the_binomial_error() -> None:
    found = score_with_error(nn.Identity(), scoring())
    share = found.value / 100
    assert found.error == pytest.approx(100 * np.sqrt(share * (1 - share) / 96))  # of 97 samples
    assert found.how == "binomial, 97 samples"
    assert found.value == pytest.approx(score(nn.Identity(), scoring()))


def test_a_mean_over_samples_has_the_error_of_a_mean() -> None:
    def distance(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.mean(1) - targets).abs().mean())

    found = score_with_error(nn.Identity(), scoring(distance, metric_name="distance"))
    each = torch.cat([(inputs.mean(1) - labels).abs() for inputs, labels in batches()])
    assert found.value == pytest.approx(float(each.mean()), rel=1e-5)
    assert found.error == pytest.approx(float(each.std()) / np.sqrt(97), rel=1e-4)


def test_a_function_of_whole_batches_has_the_error_of_the_batches() -> None:
    def largest(outputs: Tensor, targets: Tensor) -> float:
        return float(outputs.max() - targets.float().std(unbiased=False))

    found = score_with_error(nn.Identity(), scoring(largest, batches(sizes=(10,) * 12), metric_name="largest"))
    values = [largest(*pair) for pair in batches(sizes=(10,) * 12)]
    assert found.how == "jackknife, 12 batches"
    assert found.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(12))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchmetrics.classification.MulticlassF1Score(3, average="macro"),
        lambda: torchmetrics.classification.MulticlassAUROC(3),
        lambda: torchmetrics.classification.MulticlassJaccardIndex(3),
    ],
    ids=["F1", "AUC", "IoU"],
)
def test_a_metric_with_state_is_over_all_data_and_not_a_mean_of_batches(make: Any) -> None:
    whole, parts = [torch.cat(side) for side in zip(*batches(), strict=True)], batches()
    found = score_with_error(nn.Identity(), scoring(make()))
    assert found.value == pytest.approx(float(make()(*whole)), abs=1e-6)
    assert found.value != pytest.approx(float(np.mean([float(make()(*one)) for one in parts])), abs=1e-4)
    assert found.how is not None
    assert found.how.startswith("jackknife")


def test_the_jackknife_is_near_the_bootstrap() -> None:
    data = batches(sizes=(400,))
    found = score_with_error(nn.Identity(), scoring(torchmetrics.classification.MulticlassAUROC(3), data))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(0, 400, (400,), generator=generator) for _ in range(100)]
    values = [float(torchmetrics.classification.MulticlassAUROC(3)(data[0][0][index], data[0][1][index])) for index in drawn]
    assert found.error == pytest.approx(np.std(values), rel=0.5)


def test_regression_has_r2() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(50, 1), torch.randn(50, 1)) for _ in range(3)]
    data = [(inputs, inputs + 0.1 * noise) for inputs, noise in data]
    found = score_with_error(nn.Identity(), scoring(torchmetrics.R2Score(), data))
    assert found.value == pytest.approx(0.99, abs=0.01)
    assert found.error == pytest.approx(0.0026, rel=0.4)  # of 2,000 bootstrap samples


def test_words_are_scored_by_an_object_of_the_users() -> None:
    class Errors:
        """The share of wrong texts: any object with these three methods is a metric."""

        def reset(self) -> None:
            self.wrong = self.all = 0

        def update(self, outputs: Tensor, targets: list[str]) -> None:
            self.wrong += sum("abc"[int(place)] != text for place, text in zip(outputs.argmax(1), targets, strict=True))
            self.all += len(targets)

        def compute(self) -> float:
            return self.wrong / self.all

    data = [(inputs, ["abc"[place] for place in labels]) for inputs, labels in batches()]
    found = score_with_error(nn.Identity(), scoring(Errors(), data, higher_is_better=False))
    plain = score_with_error(nn.Identity(), scoring())
    assert found.value == pytest.approx(1 - plain.value / 100)
    assert found.error == pytest.approx((plain.error or 0) / 100, rel=0.5)


def test_a_dict_of_values_needs_the_name_of_one() -> None:
    class Several:
        def reset(self) -> None: ...
        def update(self, outputs: Any, targets: Any) -> None: ...
        def compute(self) -> dict[str, Tensor]:
            return {"map": torch.tensor(0.5), "map_50": torch.tensor(0.75)}

    assert score(nn.Identity(), scoring(Several())) == 0.5
    assert score(nn.Identity(), scoring(Several(), metric_name="map_50")) == 0.75


def test_a_value_for_every_class_is_refused() -> None:
    metric = torchmetrics.classification.MulticlassF1Score(3, average=None)
    with pytest.raises(TrainingError, match="MulticlassF1Score computes 3 values, not one"):
        score(nn.Identity(), scoring(metric))


def test_a_metric_that_is_nan_is_named_with_its_batch() -> None:
    def wrong(outputs: Tensor, targets: Tensor) -> float:
        return float("nan") if len(targets) == 17 else 1.0

    with pytest.raises(TrainingError, match="the balance of scores is nan on validation batch 3, not a number"):
        score(nn.Identity(), scoring(wrong, metric_name="balance"))


def test_what_is_not_a_metric_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"task\.metric is a str"):
        scoring("accuracy")


def test_a_score_is_recorded_with_its_parts() -> None:
    found = score_with_error(nn.Identity(), scoring())
    again = Score.of(found.to_json())
    assert (again.value, again.error, again.how) == (found.value, found.error, found.how)
    assert again.difference_error(found) == 0.0
    assert Score.of({"metric": 3.0}) == Score(3.0)  # of an older version


def _judged(before: Score | None, after: Score | None, max_drop: float) -> Any:
    task = scoring()
    return judge_budget(task, Budget(max_drop=max_drop), NOTHING, NOTHING, None, (before, after))["max_drop"]


def _answers(right: np.ndarray) -> Score:
    parts = 100.0 * right
    return Score(float(parts.mean()), float(parts.std(ddof=1) / np.sqrt(len(parts))), "binomial", parts)


def test_a_drop_is_judged_by_the_differences_on_the_same_samples() -> None:
    dense = np.ones(1000)
    dense[:100] = 0
    pruned = dense.copy()
    pruned[100:110] = 0  # ten more are wrong: 1.0 points, with an error of 0.31; unpaired it would be 1.4
    before, after = _answers(dense), _answers(pruned)
    assert after.difference_error(before) == pytest.approx(0.315, abs=0.001)
    assert _judged(before, after, 2.0).verdict is Verdict.MET
    assert _judged(before, after, 1.2).verdict is Verdict.UNDECIDED
    assert _judged(before, after, 0.2).verdict is Verdict.MISSED
    judged = _judged(before, after, 1.2).judged
    assert (judged.low, judged.value, judged.high) == pytest.approx((0.383, 1.0, 1.617), abs=0.001)


def test_a_score_without_an_error_is_judged_as_it_is() -> None:
    assert _judged(Score(90.0), Score(89.5), 0.5).verdict is Verdict.MET
    assert _judged(Score(90.0), Score(89.4), 0.5).verdict is Verdict.MISSED
    assert _judged(None, None, 0.5).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("value", "error", "unit", "text"),
    [
        (91.2345, 0.43, "%", "91.2 ± 0.4 %"),
        (91.2345, 1.26, "%", "91.2 ± 1.3 %"),
        (0.87315, 0.0042, "", "0.873 ± 0.004"),
        (100.0, 0.0, "%", "100.00 ± 0.00 %"),
        (91.2345, None, "%", "91.23 %"),
        (0.5, None, "", "0.5"),
    ],
)
def test_a_score_is_shown_with_as_many_digits_as_its_error_leaves(value: float, error: float | None, unit: str, text: str) -> None:
    assert format_score(value, error, unit) == text
