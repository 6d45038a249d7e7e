"""What a release says was measured follows from the samples in it: when it is built, and when it is verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from release_kit import Kit
from release_runs import edit_records, edit_result, make_micro_run, make_run, measurement

from edgeprune.bench.history import History
from edgeprune.cli import main
from edgeprune.errors import BundleError, EvidenceError
from edgeprune.release import Bundle, Evidence, Manifest
from edgeprune.release.build.build import build
from edgeprune.release.build.build_spec import BuildSpec
from edgeprune.release.bundle.codec import canonical
from edgeprune.release.bundle.file import write_bundle
from edgeprune.release.bundle.samples import check_samples
from edgeprune.release.bundle.sign import sign


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "run")


def order(run: Path) -> BuildSpec:
    return BuildSpec(runs={"pi4": run}, version="1.4.0")


def refused(run: Path, said: str) -> None:
    with pytest.raises(EvidenceError, match=said) as raised:
        build(order(run))
    assert f"pruned.tflite in {run} is invalid" in raised.value.message
    assert "Measure the file again" in raised.value.remedy
    assert not list(Path.cwd().glob("*.epb"))


def figure(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.get("model", {}).update(changes)


def pair(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.update(changes) if "model" in value else None


def faster(value: dict[str, Any]) -> None:
    """Samples and figures of half the time, which fit each other."""
    if model := value.get("model"):
        model["samples_ns"] = [sample // 2 for sample in model["samples_ns"]]
        model.update({name: model[name] / 2 for name in ("latency_ms", "low_ms", "high_ms", "p90_ms", "p99_ms")})


@pytest.mark.parametrize("trace", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (figure(latency_ms=9.95), "latency_ms is 9.95, but its samples give 10"),
        (figure(low_ms=9.0), "low_ms is 9, but its samples give 9.9"),
        (figure(high_ms=10.9), "high_ms is 10.9, but its samples give 10.2"),
        (figure(p99_ms=11.5), "p99_ms is 11.5, but its samples give 12"),
        (figure(samples_ns=[9_000_000] * 100), "is 9.9, but its samples give 9|is 10, but its samples give 9"),
        (figure(windows=[], latency_ms=1.0, low_ms=0.9), "it has no raw samples that its figures can be computed from"),
        (faster, "latency_ms is 5.0, and run.json says 10.0"),
        (figure(peak_bytes=1_000_000), "peak_bytes is 1000000, and run.json says 5000000"),
        (figure(energy_mj=39.5), "energy_mj is 39.5, and run.json says 40.0"),
        (pair(ratio=0.25), "ratio is 0.25, but its rounds give 0.5"),
        (pair(high=0.6), "high is 0.6, but its rounds give 0.50"),
        (pair(log_ratios=[]), "the ratio has no rounds"),
        (pair(beside=[{"log_ratios": [-0.6, -0.61, -0.59, -0.6]}]), "ratio is 0.5, but its rounds give 0.5157"),
        (pair(beside=[{"log_ratios": []}]), "the ratio has no rounds"),
        (pair(ratio=0.25, low=0.25, high=0.25, log_ratios=[-1.3862943611198906] * 8), "ratio is 0.25, and run.json says 0.4999"),
    ],
)
def test_a_figure_that_is_not_what_was_measured_is_refused(run, change, said, trace):
    edit_records(run, change, trace)
    refused(run, said)


@pytest.mark.parametrize("change", [figure(rss_peak_bytes=1_000_000), figure(runtime_version="3.0.0"), figure(threads=1), pair(note="x")])
def test_a_record_that_was_edited_is_refused_whatever_it_says(run, change):
    edit_records(run, change)
    refused(run, r"the record final-0-abc in measurements\.jsonl was changed after the run")


def test_a_rewritten_record_of_the_same_values_is_believed(run):
    first = build(order(run)).read_bytes()
    lines = [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]
    (run / "measurements.jsonl").write_text("".join(json.dumps(line, sort_keys=True, indent=None) + "\n" for line in lines))
    assert build(order(run)).read_bytes() == first


def test_an_arena_that_was_edited_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_micro_run(tmp_path / "run")
    with Bundle.open(build(order(run))) as bundle:
        (item,) = bundle.manifest.variants["pi4"].evidence
        assert item.samples_sha256 is None
        check_samples(bundle)
    Path("gadget-classifier-1.4.0.epb").unlink()
    edit_records(run, lambda value: value.get("arena", {}).update(needed_bytes=1024))
    with pytest.raises(EvidenceError, match=r"the record final-0-abc .* was changed after the run"):
        build(order(run))


def test_a_stored_result_without_its_samples_is_not_evidence(run, tmp_path):
    from dataclasses import fields

    from edgeprune.bench import Artifact, DeviceInfo, Report

    url, file = f"sqlite:///{tmp_path / 'history.db'}", run / "artifacts" / "pruned.tflite"
    with History(url) as history:
        item = measurement(file.read_bytes(), windows=())
        history.add(Report(DeviceInfo(**{one.name: "" for one in fields(DeviceInfo)}), (item,), ()), "pi4", Artifact(file))  # type: ignore[arg-type]
    with pytest.raises(EvidenceError, match="result 1 of the history has no raw samples"):
        build(BuildSpec(runs={"pi4": run}, version="1.4.0", evidence={"pi4": ["1"]}, history=url))


# in the bundle


def test_the_hash_is_of_the_samples_in_the_bundle(run):
    with Bundle.open(build(order(run))) as bundle:
        variant = bundle.manifest.variants["pi4"]
        (item,) = variant.evidence
        raw = json.loads(bundle.read(next(file for file in variant.files if file.path == item.raw)))["measurement"]
    samples = canonical({"samples_ns": raw["samples_ns"], "windows": raw["windows"]})
    assert item.samples_sha256 == hashlib.sha256(samples).hexdigest()


def changed(path: Path, change: Callable[[Evidence], Evidence], raw: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """The bundle as another builder would have made it, with other evidence, or another file of samples."""
    with Bundle.open(path) as bundle:
        variant = bundle.manifest.variants["pi4"]
        contents = {sha256: bundle.read(sha256) for sha256 in bundle.manifest.objects()}
        (item,), files = variant.evidence, list(variant.files)
        if raw is not None:
            place = next(index for index, file in enumerate(files) if file.path == item.raw)
            value = json.loads(contents.pop(files[place].sha256))
            raw(value["measurement"])
            content = canonical(value)
            files[place] = replace(files[place], bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            contents[files[place].sha256] = content
        variants = {"pi4": replace(variant, evidence=(change(item),), files=tuple(files))}
        manifest = Manifest.from_bytes(replace(bundle.manifest, variants=variants).to_bytes())
    objects = {sha256: (size, lambda sha256=sha256: [contents[sha256]]) for sha256, size in manifest.objects().items()}
    write_bundle(path, manifest.to_bytes(), {}, objects)
    return path


def same(item: Evidence) -> Evidence:
    return item


@pytest.mark.parametrize(
    ("change", "raw", "said"),
    [
        (lambda item: replace(item, latency_ms=5.0), None, "latency_ms is 5.0 in the manifest, and was measured as 10.0"),
        (lambda item: replace(item, high_ms=10.0), None, "high_ms is 10.0 in the manifest, and was measured as 10.2"),
        (lambda item: replace(item, peak_bytes=1), None, "peak_bytes is 1 in the manifest, and was measured as 5000000"),
        (lambda item: replace(item, energy_mj=1.0), None, "energy_mj is 1.0 in the manifest, and was measured as 40.0"),
        (lambda item: replace(item, energy_mj=None), None, "energy_mj is None in the manifest"),
        (lambda item: replace(item, samples_sha256="0" * 64), None, "the SHA-256 of its samples is"),
        (lambda item: replace(item, raw="evidence/2.json"), None, "there is no such file"),
        (lambda item: replace(item, artifact="0" * 64), None, "it is the measurement of another file"),
        (same, lambda raw: raw.update(samples_ns=raw["samples_ns"][::-1]), "the SHA-256 of its samples is"),
        (same, lambda raw: raw.update(samples_ns=[5_000_000] * 100), "but its samples give 5"),
        (same, lambda raw: raw.update(latency_ms=9.95), "latency_ms is 9.95, but its samples give 10"),
        (same, lambda raw: raw.clear(), "this is not a measurement"),
    ],
)
def test_a_signed_lie_does_not_verify(run, tmp_path, capsys, change, raw, said):
    kit, path = Kit(tmp_path), changed(build(order(run)), change, raw)
    sign(path, kit.key)
    assert main(["release", "verify", str(path), "--allowed-signers", str(kit.allowed)]) == 1
    told = capsys.readouterr().err.replace("\n", " ")
    assert said in told
    assert "the figures of variant pi4 do not match the raw samples in evidence/" in told


def test_a_hash_without_a_file_is_not_a_manifest(run):
    with pytest.raises((BundleError, ValueError), match="a hash of raw samples, but no file"):
        changed(build(order(run)), lambda item: replace(item, raw=None))


def test_evidence_of_a_former_edgeprune_verifies_and_is_shown_to_have_no_samples(run, tmp_path, capsys):
    kit, path = Kit(tmp_path), build(order(run))
    assert main(["release", "show", str(path)]) == 0
    assert "raw samples in evidence/1.json, SHA-256 " in capsys.readouterr().out
    with Bundle.open(path) as bundle:
        document = json.loads(bundle.manifest_bytes)
        contents = {sha256: bundle.read(sha256) for sha256 in bundle.manifest.objects()}
    del document["variants"]["pi4"]["evidence"][0]["samples_sha256"]
    objects = {sha256: (len(content), lambda content=content: [content]) for sha256, content in contents.items()}
    write_bundle(path, canonical(document), {}, objects)
    sign(path, kit.key)
    assert main(["release", "verify", str(path), "--allowed-signers", str(kit.allowed)]) == 0
    assert main(["release", "show", str(path)]) == 0
    assert "    no raw samples" in capsys.readouterr().out


def test_a_run_without_hashes_of_its_records_is_released_all_the_same(run):
    edit_records(run, lambda value: None, trace=False)
    assert build(order(run)).is_file()


def test_energy_that_was_predicted_is_not_evidence_against_the_measurement(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", energy_mj=None, energy_low_mj=None, energy_high_mj=None)
    result = json.loads((run / "run.json").read_text())["result"]
    edit_result(run, pruned=result["pruned"] | {"energy_mj": 3.5})
    assert build(order(run)).is_file()
