"""A release is built of what was measured, says so, and is the same each time."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from release_kit import make_key
from release_runs import BOARD, WEIGHTS, age, artifact, build_spec, edit_result, fails, make_micro_run, make_run, measurement

from edgeprune.bench.history import History
from edgeprune.cli import main
from edgeprune.errors import BundleError, EvidenceError, GateError, InputError
from edgeprune.release import Bundle, Gate
from edgeprune.release.build.build import build
from edgeprune.release.bundle.sign import sign
from edgeprune.testing.models import dense_tflite

pytestmark = pytest.mark.usefixtures("here")

MICRO = "nrf5340 (by TFLite Micro's interpreter on the build machine)"


def expected_accuracy() -> float:
    inputs = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)).numpy()
    return 100.0 * float(((inputs @ WEIGHTS.T).argmax(1) == np.arange(40) % 8).mean())


def test_a_release_holds_the_run_s_files_and_their_evidence(run):
    path = build(build_spec(run, gates=["latency:15ms,memory:20MB,energy:50mJ,size:1MB"]))
    assert path == Path("gadget-classifier-1.4.0.epb")
    with Bundle.open(path) as bundle:
        bundle.check_contents()
        manifest, variant = bundle.manifest, bundle.manifest.variants["pi4"]
        files = {file.path: file for file in manifest.files_of("pi4")}
        read = {name: bundle.read(file) for name, file in files.items()}
    assert sorted(files) == [
        "MODEL_CARD.md",
        "evidence/1.json",
        "health/input-0.npy",
        "health/output-0.npy",
        "labels.txt",
        "licences/third-party.md",
        "model.tflite",
        "preprocessing.json",
        "sbom.cdx.json",
    ]
    assert (manifest.product, manifest.version, manifest.sequence) == ("gadget-classifier", "1.4.0", 1_004_000)
    content = (run / "artifacts" / "pruned.tflite").read_bytes()
    assert read["model.tflite"] == content
    assert (files["model.tflite"].engine, files["model.tflite"].format) == ("tflite", "tflite")
    assert read["labels.txt"].decode().splitlines()[7] == "class 7"
    assert json.loads(read["preprocessing.json"])["input"] == "16 sensor values"
    (evidence,) = variant.evidence
    assert evidence.artifact == hashlib.sha256(content).hexdigest()
    assert (evidence.latency_ms, evidence.low_ms, evidence.high_ms) == (10.0, 9.9, 10.2)
    assert (evidence.peak_bytes, evidence.energy_mj, evidence.energy_method) == (5_000_000, 40.0, "INA219")
    assert (evidence.runtime, evidence.runtime_version, evidence.threads) == ("ai-edge-litert", "2.3.0", 4)
    assert (evidence.metric_name, evidence.metric) == ("accuracy", pytest.approx(expected_accuracy()))  # of the file, not the 15 of PyTorch
    share = expected_accuracy() / 100
    error = 100 * (share * (1 - share) / 39) ** 0.5
    assert evidence.metric_error == pytest.approx(error, rel=1e-3), "binomial"
    assert len(json.loads(read["evidence/1.json"])["measurement"]["samples_ns"]) == 100
    assert variant.gates == (Gate("latency", 15.0), Gate("memory", 20e6), Gate("energy", 50.0), Gate("size", 1e6))
    asked = variant.compatibility
    assert (asked.architectures, asked.profiles, asked.min_memory_bytes) == (("aarch64",), ("raspberry-pi-4",), 60_000_000)
    assert [(one.package, one.versions) for one in asked.runtimes] == [("ai-edge-litert", ">=2.3.0,<3")]


def test_the_health_check_is_what_the_model_computes(run):
    with Bundle.open(build(build_spec(run))) as bundle:
        variant = bundle.manifest.variants["pi4"]
        files = {file.path: file for file in variant.files}
        (given,), (wanted,) = (
            [np.load(io.BytesIO(bundle.read(files[path]))) for path in paths] for paths in (variant.health.inputs, variant.health.outputs)
        )
    assert given.shape == (1, 16)
    assert np.abs(given).max() > 0.5
    np.testing.assert_allclose(wanted, given @ WEIGHTS.T, rtol=1e-4, atol=1e-4)
    assert 0 < variant.health.tolerance < 0.01


def test_the_same_runs_make_the_same_bytes(run, tmp_path, monkeypatch):
    first = build(build_spec(run, gates=["accuracy:0.01"]), tmp_path / "a.epb").read_bytes()
    assert build(build_spec(run, gates=["accuracy:0.01"]), tmp_path / "b.epb").read_bytes() == first
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run, moved)  # another place, other file times
    assert build(build_spec(moved, gates=["accuracy:0.01"]), tmp_path / "c.epb").read_bytes() == first
    script = (
        f"from edgeprune.cli import main; import sys; sys.exit(main(['release', 'build', '--variants', 'pi4={run}', '--version', '1.4.0', "
    )
    script += "'--gate', 'accuracy:0.01', '--output', 'd.epb']))"
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PATH": "", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}, capture_output=True
    )
    assert (tmp_path / "d.epb").read_bytes() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    with Bundle.open(build(build_spec(run), tmp_path / "e.epb")) as bundle:
        assert (bundle.manifest.created, bundle.manifest.expires) == ("2027-01-15T08:00:00Z", "2028-01-15T08:00:00Z")


def test_a_signed_bundle_is_not_lost_to_another_build(run, tmp_path):
    path = build(build_spec(run))
    unsigned = path.read_bytes()
    sign(path, make_key(tmp_path / "key"))
    signed = path.read_bytes()
    assert build(build_spec(run)).read_bytes() == signed != unsigned  # the same release keeps its signature
    with pytest.raises(BundleError, match=r"signed bundle of 1\.4\.0 with another content") as raised:
        build(build_spec(run, expires="90d"))
    assert "--output" in raised.value.remedy
    assert path.read_bytes() == signed


def test_copies_of_a_run_make_the_same_bytes_whenever_they_are_scored(tmp_path, monkeypatch):
    run, built = make_run(tmp_path / "run"), []
    for name, hour in (("a", 12), ("b", 13)):
        shutil.copytree(run, tmp_path / name)
        monkeypatch.setattr("edgeprune.runs.directory.time.gmtime", lambda hour=hour: (2031, 1, 1, hour, 0, 0, 0, 1, 0))
        built.append(build(build_spec(tmp_path / name), tmp_path / f"{name}.epb").read_bytes())
        assert "2031" in (tmp_path / name / "measurements.jsonl").read_text()  # each was scored
    assert built[0] == built[1]


def test_another_recipe_scores_again(tmp_path):
    run = make_run(tmp_path / "run")
    recipe = Path(json.loads((run / "run.json").read_text())["inputs"]["recipe"])
    assert build(build_spec(run, gates=["accuracy:0.01"])).is_file()
    scores = (run / "measurements.jsonl").read_text().count("score-file-")
    recipe.write_text(recipe.read_text() + "\n")
    assert build(build_spec(run, gates=["accuracy:0.01"])).is_file()
    assert (run / "measurements.jsonl").read_text().count("score-file-") == scores + 1
    recipe.unlink()
    assert build(build_spec(run, gates=["accuracy:0.01"])).is_file()  # the last score counts when nothing can be scored any more


def test_a_record_that_was_cut_off_does_not_stop_a_release(run):
    with (run / "measurements.jsonl").open("a") as file:
        file.write('{"key": "score-fi')
    assert build(build_spec(run)).is_file()


def test_a_release_does_not_reveal_where_it_was_measured(run):
    with Bundle.open(build(build_spec(run))) as bundle:
        (file,) = (file for file in bundle.manifest.variants["pi4"].files if file.role == "evidence")
        told = json.loads(bundle.read(file))
    assert told["device"]
    assert not {"hostname", "address", "python_path", "machine", "key"} & set(told["device"])
    assert "/" not in told["target"]
    assert "@" not in told["target"]


def test_what_is_there_and_no_bundle_is_not_overwritten(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"thesis\.txt exists, and is not a whole bundle"):
        build(build_spec(run), tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_release_that_has_expired_already_is_reported(run, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    notes: list[str] = []
    build(build_spec(run), None, notes.append)
    assert any("has already expired, at 2021-" in note for note in notes)


def test_without_a_date_a_release_is_as_old_as_its_newest_evidence(run):
    build(build_spec(run))
    age(run, "2026-03-01T12:00:00Z")
    with Bundle.open(build(build_spec(run, expires="never"))) as bundle:
        assert (bundle.manifest.created, bundle.manifest.expires) == ("2026-03-01T12:00:00Z", None)


def test_variants_are_of_runs_of_their_own(run, tmp_path):
    facts = BOARD | {"profile": None, "board": "", "arch": "x86_64"}
    other = make_run(tmp_path / "other", facts, WEIGHTS * 2, latency_ms=3.0, low_ms=2.9, high_ms=3.1)
    path = build(build_spec(run, other, gates=["pi5=latency:5ms", "latency:15ms"], product="gadget"))
    with Bundle.open(path) as bundle:
        pi4, pi5 = (bundle.manifest.variants[name] for name in ("pi4", "pi5"))
    assert pi4.model.sha256 != pi5.model.sha256
    assert pi4.gates == (Gate("latency", 15.0),)
    assert pi5.gates == (Gate("latency", 5.0), Gate("latency", 15.0))
    assert (pi5.compatibility.architectures, pi5.compatibility.profiles) == (("x86_64",), ())


def test_an_unmeasured_release_says_so(tmp_path):
    run = make_run(tmp_path / "run", device=None)
    notes: list[str] = []
    with Bundle.open(build(build_spec(run), note=notes.append)) as bundle:
        variant = bundle.manifest.variants["pi4"]
        text = bundle.read(next(file for file in bundle.manifest.files if file.role == "card")).decode()
    assert variant.evidence == ()
    assert variant.compatibility.profiles == ("raspberry-pi-5",)
    assert "Nothing of this was measured on a device." in text
    assert "variant pi4: pruned.tflite was measured on no device, and the release will say so" in notes


def test_a_microcontroller_gets_a_c_array_and_the_arena_as_evidence(tmp_path):
    run = make_micro_run(tmp_path / "run")
    with Bundle.open(build(build_spec(run, gates=["memory:8kB,size:100kB"]))) as bundle:
        variant = bundle.manifest.variants["pi4"]
        files = {file.path: file for file in variant.files}
        source, header, model = (bundle.read(files[name]) for name in ("c/model.c", "c/model.h", "model.tflite"))
        text = bundle.read(next(file for file in bundle.manifest.files if file.role == "card")).decode()
    assert [(item.latency_ms, item.peak_bytes, item.device, item.runtime) for item in variant.evidence] == [
        (None, 4096, MICRO, "tflite-micro")
    ]
    assert (variant.compatibility.profiles, variant.compatibility.min_memory_bytes) == (("nrf5340",), 4096)
    assert variant.model.engine == ""  # no runtime of a Linux device is meant
    values = bytes(int(value, 16) for value in re.findall(r"0x([0-9a-f]{2}),", source.decode()))
    assert values == model
    assert b"model" in header
    assert f"| {MICRO} | tflite-micro 0.dev1 | 1 |" in text
    assert "| not measured | 4.1 kB | no meter |" in text
    (tmp_path / "gadget-classifier-1.4.0.epb").unlink()
    fails(build_spec(run, gates=["memory:4kB"]), GateError, "the gate memory:4kB is not met: memory 4.1 kB, limit 4 kB", tmp_path)
    fails(build_spec(run, gates=["latency:5ms"]), EvidenceError, "for a latency that was not measured on nrf5340", tmp_path)


def test_results_of_the_history_are_evidence_of_the_very_file_only(run, tmp_path):
    from edgeprune.bench import Artifact, DeviceInfo, Report

    url = f"sqlite:///{tmp_path / 'history.db'}"
    content = (run / "artifacts" / "pruned.tflite").read_bytes()
    info = {item.name: "" for item in dataclasses.fields(DeviceInfo)}
    with History(url) as history:
        for latency, measured in ((4.0, content), (5.0, dense_tflite(WEIGHTS + 1))):
            device = "Raspberry Pi 5 Model B (aarch64, 4 cores, ffffffffffff)"
            item = measurement(measured, latency_ms=latency, low_ms=latency - 0.1, high_ms=latency + 0.1, device=device)
            history.add(Report(DeviceInfo(**info), (item,), ()), "pi5", Artifact(run / "artifacts" / "pruned.tflite"))  # type: ignore[arg-type]
    wanted = build_spec(run, gates=["latency:5ms"], evidence={"pi4": ["1"]}, profiles={"pi4": ["raspberry-pi-5"]}, history=url)
    with Bundle.open(build(wanted)) as bundle:
        variant = bundle.manifest.variants["pi4"]
    assert [(item.latency_ms, item.target) for item in variant.evidence] == [(4.0, "pi5")]
    assert (variant.compatibility.architectures, variant.compatibility.profiles) == (("aarch64",), ("raspberry-pi-5",))
    Path("gadget-classifier-1.4.0.epb").unlink()
    fails(build_spec(run, evidence={"pi4": ["2"]}, history=url), EvidenceError, "result 2 of the history is of another file", tmp_path)
    edit_result(run, artifacts={"tflite": artifact(run / "artifacts" / "pruned.tflite", content, "2999-01-01T00:00:00Z")})
    fails(build_spec(run, evidence={"pi4": ["1"]}, history=url), EvidenceError, r"result 1 .* is older than", tmp_path)


def test_a_quantized_export_measured_later_is_released_instead(run, tmp_path):
    """The run measured its float file; what the product loads is another export, measured by edgeprune bench."""
    from edgeprune.bench import Artifact, DeviceInfo, Report

    url, quantized = f"sqlite:///{tmp_path / 'history.db'}", dense_tflite(WEIGHTS / 2)
    known = json.loads((run / "run.json").read_text())["result"]["artifacts"]
    path = run / "artifacts" / "pruned.dynamic.tflite"
    edit_result(run, artifacts=known | {"tflite-dynamic": artifact(path, quantized)})
    identity = measurement(quantized).device
    info = {item.name: "" for item in dataclasses.fields(DeviceInfo)}
    with History(url) as history:
        history.add(
            Report(DeviceInfo(**info), (measurement(quantized, latency_ms=6.0, low_ms=5.9, high_ms=6.1),), ()),
            "pi4",
            Artifact(path),
            label="q8",
        )  # type: ignore[arg-type]
    with Bundle.open(build(build_spec(run, evidence={"pi4": ["q8"]}, history=url))) as bundle:
        variant = bundle.manifest.variants["pi4"]
        assert bundle.read(variant.model) == quantized
    assert variant.model.format == "tflite-dynamic"
    assert {file.path for file in variant.files if file.role == "alternative"} == {"alternatives/pruned.tflite"}
    assert [(item.latency_ms, item.device, item.os) for item in variant.evidence] == [(6.0, identity, BOARD["os"])]  # the run's own device
    assert variant.compatibility.profiles == ("raspberry-pi-4",)
    assert variant.evidence[0].metric == pytest.approx(expected_accuracy())


def test_several_formats_are_shipped_beside_the_model(run, tmp_path):
    known = json.loads((run / "run.json").read_text())["result"]["artifacts"]
    more = {"torchscript": "pruned.pt", "pt2": "pruned.pt2"}
    edit_result(run, artifacts=known | {name: artifact(run / "artifacts" / file, name.encode()) for name, file in more.items()})
    with Bundle.open(build(build_spec(run))) as bundle:
        roles = {file.path: (file.role, file.engine) for file in bundle.manifest.variants["pi4"].files if file.engine}
    assert roles == {"model.tflite": ("model", "tflite"), "alternatives/pruned.pt": ("alternative", "torchscript")}
    with Bundle.open(build(build_spec(run, formats=["pt2", "tflite"]))) as bundle:
        assert {"alternatives/pruned.pt2"} < {file.path for file in bundle.manifest.variants["pi4"].files}
    (tmp_path / "gadget-classifier-1.4.0.epb").unlink()
    fails(build_spec(run, model="tflite-int8"), InputError, "has no export in the format tflite-int8", tmp_path)
    fails(build_spec(run, formats=["torchscript"]), EvidenceError, r"variant pi4: pruned\.pt was not measured", tmp_path)
    error = fails(build_spec(run, model="torchscript"), EvidenceError, r"variant pi4: pruned\.pt was not measured", tmp_path)
    assert "--evidence" in error.remedy


def test_runs_of_two_tasks_need_a_product(run, tmp_path):
    other = make_run(tmp_path / "other", task="another")
    fails(build_spec(run, other), InputError, "several tasks: another, gadget-classifier", tmp_path)


def test_licences_are_put_in(run, tmp_path):
    (tmp_path / "LICENSE.txt").write_text("all mine\n")
    with Bundle.open(build(build_spec(run, licences=[tmp_path / "LICENSE.txt"]))) as bundle:
        files = {file.path: file for file in bundle.manifest.files if file.role == "licence"}
        assert bundle.read(files["licences/LICENSE.txt"]) == b"all mine\n"
        assert b"| ai-edge-litert | Apache-2.0 |" in bundle.read(files["licences/third-party.md"])
    with pytest.raises(InputError, match=r"the licence .*nothing cannot be read"):
        build(build_spec(run, licences=[tmp_path / "nothing"]))


def test_the_bill_of_materials_is_valid_cyclonedx(run):
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    with Bundle.open(build(build_spec(run, gates=["accuracy:0.01"]))) as bundle:
        text = bundle.read(next(file for file in bundle.manifest.files if file.role == "sbom")).decode()
        model = bundle.manifest.variants["pi4"].model
    assert validation.JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    assert validation.JsonStrictValidator(SchemaVersion.V1_5).validate_str(text.replace("machine-learning-model", "model")) is not None
    document = json.loads(text)
    parts = {part["name"]: part for part in document["components"]}
    assert parts["pi4/model.tflite"]["hashes"] == [{"alg": "SHA-256", "content": model.sha256}]
    metrics = {item["type"]: item["value"] for item in parts["pi4/model.tflite"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics == {"latency_ms": "10", "peak_bytes": "5000000", "energy_mj": "40", "accuracy": f"{expected_accuracy():.6g}"}
    assert parts["ai-edge-litert"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    refs = {part["bom-ref"] for part in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
    assert {item for entry in document["dependencies"] for item in (entry["ref"], *entry["dependsOn"])} <= refs


def test_the_card_says_what_was_measured_where(run):
    with Bundle.open(build(build_spec(run, gates=["latency:15ms"]))) as bundle:
        text = bundle.read(next(file for file in bundle.manifest.files if file.role == "card")).decode()
    assert "# gadget-classifier 1.4.0" in text
    assert "Gates met: latency at most 15 ms" in text
    assert "| Raspberry Pi 4 Model B Rev 1.4 (aarch64, 4 cores, 0123456789ab) | ai-edge-litert 2.3.0 | 4 |" in text
    assert "| 10 ms (9.9 ms to 10.2 ms) | 5 MB | 40 mJ (INA219) | 15 ± 6 |" in text  # the error of 40 samples
    assert "raspberry-pi-4; aarch64; 60 MB of memory or more" in text


# the command


def test_the_command_builds_and_shows(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["release", "build", str(run), "--version", "1.4.0", "--gate", "latency:15ms", "--min-memory", "512MB", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"]["variants"]["default"]["compatibility"]["min_memory_bytes"] == 512_000_000
    assert main(["release", "show", "gadget-classifier-1.4.0.epb"]) == 0
    out = capsys.readouterr().out
    for told in ("gadget-classifier 1.4.0, sequence 1004000", "signatures (not verified): none", "latency at most 15 ms", "10 ms (9.9 ms"):
        assert told in out
    assert main(["release", "show", "gadget-classifier-1.4.0.epb", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_the_command_fails_by_a_gate_with_one_message(run, capsys):
    assert main(["release", "build", str(run), "--version", "1.4.0", "--gate", "latency:5ms"]) == 4
    said = capsys.readouterr()
    assert "error: variant default: the gate latency:5ms is not met" in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [[], ["run", "--variants", "a"], ["--variants", "a=x,a=y"], ["run", "--evidence", "a"],
                                       ["run", "--evidence", "default=1", "--history", "off"], ["run", "--min-memory", "50%"]])  # fmt: skip
def test_wrong_usage_is_code_2(arguments):
    assert main(["release", "build", *arguments, "--version", "1.0.0"]) == 2
