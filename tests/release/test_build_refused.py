"""Releases that are not built: gates that are not met, and evidence that is missing, older or of another file."""

from __future__ import annotations

import json

import pytest
from release_runs import WEIGHTS, age, artifact, build_spec, edit_result, fails, make_run

from edgeprune.errors import EvidenceError, GateError, InputError, RunError
from edgeprune.release import Bundle, Gate
from edgeprune.release.build.build import build
from edgeprune.testing.models import dense_tflite

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("latency:5ms", r"variant pi4: the gate latency:5ms is not met: latency 10 ms \(9.9 ms to 10.2 ms\), limit 5 ms"),
        ("latency:10ms", "the gate latency:10ms cannot be decided"),
        ("memory:1MB", "the gate memory:1MB is not met: memory 5 MB, limit 1 MB"),
        ("energy:10mJ", "the gate energy:10mJ is not met"),
        ("size:100B", "the gate size:100B is not met"),
        ("accuracy:0.91", "the gate accuracy:0.91 is not met: accuracy [0-9.]+, at least 91"),
        ("accuracy:91%", "the gate accuracy:91% is not met: accuracy [0-9.]+, at least 91"),
        ("latency:15ms,memory:1MB", "the gate memory:1MB is not met"),
    ],
)
def test_a_gate_that_is_not_met_fails_the_build_and_is_named(run, tmp_path, gate, said):
    fails(build_spec(run, gates=[gate]), GateError, said, tmp_path)


def test_a_gate_of_a_variant_without_a_name_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"the gate '=latency:1ns' names no variant") as error:
        build_spec(run, gates=["=latency:1ns"])
    assert "pi4=" in error.value.remedy


def test_a_gate_without_evidence_fails_the_build(run, tmp_path):
    fails(build_spec(run, gates=["f1:0.5"]), EvidenceError, "is for f1, and the task's metric is accuracy", tmp_path)
    predicted = make_run(tmp_path / "predicted", device=None)
    fails(build_spec(predicted, gates=["latency:15ms"]), EvidenceError, "no measurement to be judged by", tmp_path)
    unscored = make_run(tmp_path / "unscored")
    (unscored / "recipe.py").unlink()
    error = fails(build_spec(unscored, gates=["accuracy:0.1"]), EvidenceError, "has no accuracy of the exported file", tmp_path)
    assert "--recipe" in error.remedy
    no_meter = make_run(tmp_path / "no meter", energy_mj=None, energy_low_mj=None, energy_high_mj=None)
    fails(build_spec(no_meter, gates=["energy:50mJ"]), GateError, "cannot be decided: energy was not measured", tmp_path)


def test_accuracy_as_a_fraction_is_judged_as_one(tmp_path):
    run = make_run(tmp_path / "run", dense={"metric": 0.9, "parameters": 1.0, "macs": 1.0, "file_bytes": 1})
    source = (run / "recipe.py").read_text()
    (run / "recipe.py").write_text(source.replace("validation=", "metric=lambda outputs, labels: 0.95, validation="))
    with Bundle.open(build(build_spec(run, gates=["accuracy:0.91,accuracy:90%"]))) as bundle:
        assert bundle.manifest.variants["pi4"].gates == (Gate("accuracy", 0.91), Gate("accuracy", 0.9))
    with pytest.raises(GateError, match=r"accuracy:0.96 is not met: accuracy 0.95, at least 0.96"):
        build(build_spec(run, gates=["accuracy:0.96"]))


def test_a_file_that_is_not_the_measured_one_is_refused(run, tmp_path):
    (run / "artifacts" / "pruned.tflite").write_bytes(dense_tflite(WEIGHTS + 1))
    error = fails(build_spec(run), EvidenceError, r"pruned\.tflite is not the file that was measured", tmp_path)
    assert "measure again" in error.remedy


def test_evidence_of_another_file_is_refused(run, tmp_path):
    """The file and run.json agree, but what was measured is another file."""
    edit_result(run, artifacts={"tflite": artifact(run / "artifacts" / "pruned.tflite", dense_tflite(WEIGHTS + 1))})
    fails(build_spec(run), EvidenceError, r"variant pi4: pruned\.tflite was not measured", tmp_path)


def test_evidence_older_than_the_file_is_refused(run, tmp_path):
    content = (run / "artifacts" / "pruned.tflite").read_bytes()
    later = artifact(run / "artifacts" / "pruned.tflite", content, "2026-06-01T00:00:00Z")
    edit_result(run, artifacts={"tflite": later})
    age(run, "2026-05-31T23:59:59Z")
    fails(build_spec(run), EvidenceError, r"of 2026-05-31T23:59:59Z\) is older than .*pruned\.tflite, written at 2026-06-01", tmp_path)
    age(run, "2026-06-01T00:00:00Z")
    assert build(build_spec(run)).is_file()


def test_a_lost_file_a_missed_budget_and_an_unfinished_run_are_refused(run, tmp_path):
    edit_result(run, budget={"latency": {"text": "9ms", "limit": 9.0, "met": False}, "size": {"text": "1MB", "limit": 1e6, "met": True}})
    fails(build_spec(run), GateError, "was not found to meet its budget: latency 9ms\n", tmp_path)
    edit_result(run, budget={})
    (run / "artifacts" / "pruned.tflite").unlink()
    fails(build_spec(run), EvidenceError, r"pruned\.tflite cannot be read: No such file", tmp_path)
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"inputs": document["inputs"], "state": "running"}))
    fails(build_spec(run), RunError, "is not finished", tmp_path)
    fails(build_spec(tmp_path), RunError, "is not a run directory", tmp_path)
    del document["result"]["artifacts"]
    (run / "run.json").write_text(json.dumps(document))
    fails(build_spec(run), RunError, "kept no hashes", tmp_path)
