"""Recipes with data, scores or parts of their own kind: masks, screening, streams, translation, sound that does not end."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from stand_in_data import make_data
from torch import nn

from edgeprune import Budget, Options, Task, analyze, prune
from edgeprune.export import export
from edgeprune.importance import score as saliency_of
from edgeprune.runs.summary import RunSummary
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of
from edgeprune.tuning import score

RECIPES = Path(__file__).parents[2] / "recipes"
Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, stand_ins: Path) -> Iterator[Load]:
    """Import a recipe's module by name, with stand-ins for its data."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setenv("EDGEPRUNE_DATA", str(stand_ins))
    yield __import__
    for path in RECIPES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def halved(task: Task) -> nn.Module:
    """The task's model with half of every group."""
    analysis = analyze(task.model, task.example_inputs)
    halves = {group.name: max(1, group.size // 2) for group in analysis.groups}
    assert halves
    return apply(task.model, analysis, plan_from_saliency(analysis, saliency_of(task, analysis, "l2"), halves)).model


# --- medicine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nuclei", "nuclei_lraspp"])
def test_nuclei_are_marked_by_whole_and_pruned_networks(recipe: Load, name: str) -> None:
    module = recipe(name)
    torch.manual_seed(0)
    network = module.network().eval()
    task = module.make_task(network)
    assert task.model is network  # what is trained is what the loss is given the outputs of
    assert [len(task.train.dataset), len(task.validation.dataset)] == [10, 8]
    pictures, masks = next(iter(task.train))
    assert pictures.shape == (8, 3, 160, 160)
    bright = pictures.mean(1) > 1.0  # the same orientation was drawn for both
    assert (bright == masks.bool()).float().mean() > 0.95
    pruned = halved(task)
    assert pruned(pictures).shape == task.model(pictures).shape == (8, 2, 160, 160)
    assert 0 <= score(pruned, task) <= 100


def test_screening_is_scored_by_order(recipe: Load) -> None:
    scores, found = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])
    module = recipe("_scores")
    assert module.area(scores, found) == 75.0  # the textbook example of scikit-learn
    assert module.area(torch.zeros(4), found) == 50.0
    assert module.area(-scores, found) == 25.0
    negative = torch.arange(10.0)  # up to 9; one in ten may be exceeded
    scores = torch.cat([negative, torch.tensor([8.5, 8.0, 20.0, 0.0])])
    found = torch.cat([torch.zeros(10), torch.ones(4)])
    assert module.sensitivity(scores, found) == 50.0
    assert module.sensitivity(scores, found, 1.0) == 25.0


def test_pneumonia_has_two_scores_of_which_one_counts(recipe: Load) -> None:
    module = recipe("pneumonia")
    task = module.make_task(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval())
    task.model[2].load_state_dict({"weight": torch.tensor([[0.0], [1.0]]), "bias": torch.zeros(2)})  # positives are brighter
    assert score(task.model, task) == 100.0
    task.metric_name = "sensitivity"
    assert score(task.model, task) == 100.0
    task.model[2].load_state_dict({"weight": torch.tensor([[1.0], [0.0]]), "bias": torch.zeros(2)})
    assert score(task.model, task) == 0.0


# --- streams ---------------------------------------------------------------------------------------------------------


def test_streams_are_learnt_from_before_they_are_scored(recipe: Load) -> None:
    module = recipe("nab")
    torch.manual_seed(0)
    task = module.make_task(module.network().eval())
    inputs, (wanted, marked) = next(iter(task.train))
    assert inputs.shape == (64, 128)
    assert torch.equal(inputs, wanted)
    assert not marked.any()
    scored = torch.cat([marked for _, (_, marked) in task.validation])
    assert 20 <= scored.sum() <= 30  # a hundred values, of which every fourth ends a window
    assert 50 < score(task.model, task) <= 100  # a step is large whatever reproduces it
    assert halved(task)(inputs).shape == inputs.shape


def test_clips_are_rolled_around(recipe: Load) -> None:
    module = recipe("esc10")
    inputs = torch.zeros(8, 1, 32, 245)
    inputs[..., 100:105] = 50.0
    rolled = module.later(inputs, torch.Generator().manual_seed(0))
    assert rolled.shape == inputs.shape
    places = rolled.amax((1, 2)).argmax(1)
    assert len(places.unique()) > 4


def test_mu_law_is_undone(recipe: Load) -> None:
    import numpy as np

    samples = np.linspace(-1, 1, 101)
    coded = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256)
    codes = np.round((coded + 1) / 2 * 255).astype(np.uint8)
    assert np.abs(recipe("_speech").decoded(codes, 256) - samples).max() < 0.03


# --- speech and text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "states"), [("speech_commands_gru", 1), ("speech_commands_lstm", 2)])
def test_a_pruned_recurrent_network_hears_a_stream_as_it_hears_the_clip(recipe: Load, name: str, states: int) -> None:
    module = recipe(name)
    torch.manual_seed(0)
    pruned = halved(module.make_task(module.network().eval()))
    streaming = module.Streaming(pruned)
    layer = streaming.gru if states == 1 else streaming.lstm
    assert layer.hidden_size == module.STATE // 2
    kept = [torch.zeros(1, 1, layer.hidden_size)] * states
    clip = torch.randn(1, 1, 32, 49)
    for frames in clip[0, 0].T.split(7):
        scores, *kept = streaming(frames[None], *kept)
    torch.testing.assert_close(scores, pruned(clip), atol=1e-5, rtol=1e-4)


def test_dates_are_written_in_all_forms(recipe: Load) -> None:
    module = recipe("dates")
    texts, wanted = module.dates(300, 0)
    letters = {place: character for character, place in module.SOURCE.items()}
    seen = set()
    for text, iso in zip(texts.tolist(), wanted.tolist(), strict=True):
        shown = "".join(letters[place] for place in text).strip()
        day = datetime.date.fromisoformat("".join(module.WRITTEN[place] for place in iso))
        fits = [form for form in module.FORMS if day.strftime(form).lower()[: module.READ] == shown]
        assert fits
        seen.update(fits)
    assert seen == set(module.FORMS)


def test_a_translation_is_right_exactly_where_all_characters_before_were(recipe: Load) -> None:
    module = recipe("dates")
    torch.manual_seed(0)
    task = module.make_task(module.Translator().eval())
    pruned = halved(task)
    encoder, step = module.Encoder(pruned), module.Step(pruned)
    with torch.no_grad():
        written = module.translate(encoder, step, "3 march 1998")
        before = [module.START, *(module.WRITTEN.index(character) for character in written[:-1])]
        scores = pruned(module.encoded("3 march 1998")[None], torch.tensor([before], dtype=torch.int32))
    assert "".join(module.WRITTEN[place] for place in scores[0].argmax(1).tolist()) == written
    wanted = scores.argmax(2)
    assert module.exact(scores, wanted) == 100.0
    wanted[0, 4] = (wanted[0, 4] + 1) % 11
    assert module.exact(scores, wanted) == 0.0


def test_the_parts_of_a_pruned_translator_are_exported_and_write_the_same(recipe: Load, tmp_path: Path) -> None:
    module = recipe("dates")
    torch.manual_seed(0)
    pruned = halved(module.make_task(module.Translator().eval()))
    encoder, step, state = module.Encoder(pruned), module.Step(pruned), torch.zeros(1, 1, pruned.decoder.hidden_size)
    text, before = module.encoded("3 march 1998")[None], torch.zeros(1, 1, dtype=torch.int32)
    files = {
        "encoder": export(encoder, (text,), ["tflite"], tmp_path, "encoder")["tflite"],
        "step": export(step, (before, state, state), ["tflite"], tmp_path, "step")["tflite"],
    }

    def ran(name: str) -> Callable[..., tuple[torch.Tensor, ...]]:
        interpreter = open_tflite(files[name].read_bytes())

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            invoke(interpreter, inputs)
            return tuple(value_of(interpreter, detail).clone() for detail in interpreter.get_output_details())

        return run

    with torch.no_grad():
        wanted = module.translate(encoder, step, "3 march 1998")
    assert module.translate(ran("encoder"), ran("step"), "3 march 1998") == wanted


@pytest.mark.soak
@pytest.mark.parametrize(
    "name", ["mnist", "nuclei", "nuclei_lraspp", "pneumonia", "speech_commands_lstm", "speech_commands_dscnn", "esc10", "nab", "dates"]
)
def test_recipes_are_pruned_from_end_to_end(recipe: Load, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stand-ins for their data, trained for a moment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe(name).LESSON["epochs"] = 0.1
    task = recipe(name).task()
    options = Options(formats=("tflite", "tflite-int8"), epochs=0.1)
    result = prune(task, profile="raspberry-pi-4", budget=Budget(latency="60%"), options=options, runs=tmp_path / "runs")
    assert result.met
    summary = RunSummary.of(result.summary)
    assert summary.pruned.latency_ms < 0.6 * summary.dense.latency_ms
    assert summary.pruned.metric is not None
    assert set(summary.artifacts) == {"tflite", "tflite-int8"}
