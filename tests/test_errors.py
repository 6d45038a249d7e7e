"""Unknown names: the remedy says which known one looks like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune import profile
from edgeprune.bench.limits import parse_gate
from edgeprune.bench.results import Artifact, check_engine
from edgeprune.cli import main
from edgeprune.devices import add_target, resolve_target
from edgeprune.devices.pythons import Python
from edgeprune.devices.wheels import find_wheel
from edgeprune.errors import EdgepruneError, close_names, suggest
from edgeprune.export import formats

PYTHON = Python("/usr/bin/python3", (3, 11, 2), "aarch64", "glibc 2.36")


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("talyor", ["l1", "l2", "taylor"], ["taylor"]),
        ("Raspberry_Pi4", ["raspberry-pi-4", "raspberry-pi-5"], ["raspberry-pi-4"]),
        ("pi4", ["raspberry-pi-4", "jetson-nano"], ["raspberry-pi-4"]),
        ("TFLITE", ["tflite", "tflite-int8"], ["tflite"]),
        ("zzz", ["tflite", "onnx"], []),
        ("", ["tflite", "onnx"], []),
        (None, ["tflite"], []),
        ("tflite", [], []),
    ],
)
def test_close_names(name: object, known: list[str], near: list[str]) -> None:
    assert close_names(name, known) == near


def test_a_suggestion_names_the_nearest_and_then_all() -> None:
    assert suggest("talyor", ["l2", "taylor"], "criteria") == "Did you mean taylor? Known criteria: l2, taylor."
    assert suggest("zzz", ["l2", "taylor"], "criteria") == "Known criteria: l2, taylor."
    assert suggest("zzz", [], "targets") == "Known targets: none."


@pytest.mark.parametrize(
    ("find", "near"),
    [
        (lambda: profile.load("raspberry-pi4"), "raspberry-pi-4"),
        (lambda: profile.load("raspberry-pi4.toml"), "raspberry-pi-4"),
        (lambda: resolve_target("kitchn"), "kitchen"),
        (lambda: formats.find("tflite-int"), "tflite-int8"),
        (lambda: check_engine("tflit"), "tflite"),
        (lambda: Artifact(Path("model.tfl")).engine, ".tflite"),
        (lambda: find_wheel("torch-script", PYTHON), "torchscript"),
        (lambda: find_wheel("tflite", PYTHON, "litert"), "ai-edge-litert"),
        (lambda: parse_gate("latencey:5ms"), "latency"),
    ],
)
def test_an_unknown_name_is_answered_with_the_one_that_looks_like_it(find: Callable[[], object], near: str, client_home: Path) -> None:
    add_target("kitchen", "ssh://pi@kitchen")
    with pytest.raises(EdgepruneError) as caught:
        find()
    assert f"Did you mean {near}" in str(caught.value.remedy)


@pytest.mark.parametrize(("arguments", "near"), [(["prnue"], "prune"), (["prune", "--latancy", "5ms"], "--latency")])
def test_a_mistyped_command_or_option(arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Did you mean" in (said := capsys.readouterr().err)
    assert near in said.partition("Did you mean")[2]
