"""The coverage benchmark: what it counts, how it keeps rows, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.coverage import main
from benchmarks.coverage.child import macs, prunable_share, staying
from benchmarks.coverage.models import awake, find_case, torchvision_cases
from benchmarks.coverage.report import document
from benchmarks.coverage.run import Limits, Results, code_version, run_child
from benchmarks.coverage.train import TrainingStepError, detection_batch, training_step
from edgeprune.graph import analyze
from edgeprune.testing.networks import Gated

PASS = {
    "kind": "edgeprune",
    "model": "resnet18",
    "error": None,
    "groups": 12,
    "blocks": 8,
    "prunable": 0.9999,
    "prunable_inside": 1.0,
    "fixed": [["reaches the model's output", 1000]],
    "unsupported": [],
    "parameters_before": 11_700_000,
    "parameters_after": 3_060_000,
    "macs_before": 1_814_000_000,
    "macs_after": 483_000_000,
    "analysis_s": 0.6,
    "analysis_cpu_s": 0.3,
    "analysis_peak_bytes": 16 << 20,
    "peak_bytes": 949 << 20,
    "apply_s": 0.2,
    "mode": "modules",
    "difference": 3e-7,
    "trains": "yes",
    "inactive": [],
    "seconds": 8.0,
    "version": "code, torch",
    "date": "2026-01-02",
}
FAIL = {"kind": "edgeprune", "model": "swin_t", "error": "VerificationError: outputs | differ", "peak_bytes": 1 << 30}
FAIL |= {"version": "code, torch", "date": "2026-01-02"}


def test_multiply_accumulates_are_counted_where_fused_kernels_would_hide_them() -> None:
    assert macs(nn.Conv2d(3, 8, 3, bias=False), (torch.zeros(1, 3, 10, 10),)) == 8 * 8 * 8 * 3 * 9
    steps, width, hidden = 5, 9, 32
    lstm = nn.LSTM(width, hidden, batch_first=True).eval()
    assert macs(lstm, (torch.zeros(1, steps, width),)) == steps * 4 * hidden * (width + hidden)
    attention = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    tokens = 10
    assert macs(attention, (torch.zeros(1, tokens, 32),)) == tokens * (4 * 32 * 32 + 2 * 32 * 64) + 2 * tokens * tokens * 32


def test_shares_leave_out_what_stays_in_stems_and_heads() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    total = sum(value.numel() for value in model.parameters())
    inside, whole = prunable_share(analyze(model, (torch.zeros(1, 3, 8, 8),)), model)
    assert whole == pytest.approx((total - 5) / total)
    assert inside == 1.0
    protected = analyze(model, (torch.zeros(1, 3, 8, 8),), protect=("0",))
    inside, whole = prunable_share(protected, model)
    assert whole == pytest.approx((16 * 8 * 9 + 8 + 8 * 5) / total)
    assert inside == 1.0


def test_a_layer_that_stays_for_another_reason_counts_against_the_share() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.odd, self.last, self.head = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 10), nn.Linear(10, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.head(self.last(torch.fft.fft(self.odd(self.first(x))).real))
            return scores

    model = Odd()
    analysis = analyze(model, (torch.zeros(1, 4),))
    assert staying(analysis, model) == [("odd.bias", 6)]
    inside, _ = prunable_share(analysis, model)
    read = [4 * 8, 8, 8 * 6, 6, 6 * 10, 10, 10 * 2, 2]
    stays_elsewhere, at_the_edge = 6, 2  # odd's bias; the scores' bias
    assert inside == pytest.approx(1 - stays_elsewhere / (sum(read) - at_the_edge))


def test_nothing_is_left_asleep() -> None:
    model = nn.Sequential(Gated(), nn.Flatten(), nn.LayerNorm(4))
    nn.init.zeros_(model[0].head.weight)
    awake(model, (torch.zeros(1, 3, 16, 16),))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.numel() > 1:
            assert len(value.unique()) > 1, name
    assert not model.training
    outputs = model(torch.randn(8, 3, 16, 16))
    assert 1e-3 < float(outputs.std()) < 1e3


def test_every_listed_model_of_torchvision_is_a_case() -> None:
    from torchvision import models

    listed = {name for name in models.list_models() if not name.startswith("quantized_")}
    assert {case.name for case in torchvision_cases()} == listed
    families = {case.name: case.family for case in torchvision_cases()}
    assert (families["raft_small"], families["s3d"], families["ssd300_vgg16"]) == ("optical flow", "video", "detection")
    with pytest.raises(KeyError):
        find_case("resnet17")


def test_the_last_row_of_a_model_counts_and_a_cut_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    results = Results(path)
    results.add(FAIL | {"model": "resnet18", "version": "old"})
    assert not results.settled("edgeprune", "resnet18")
    results.add(PASS | {"version": code_version("edgeprune")})
    path.write_text(path.read_text() + '{"kind": "edgeprune", "mod')
    again = Results(path)
    assert again.get("edgeprune", "resnet18") == PASS | {"version": code_version("edgeprune")}
    assert again.current("edgeprune", "resnet18")
    assert again.settled("edgeprune", "resnet18")
    assert not again.current("edgeprune", "swin_t")


def test_the_document_has_a_row_a_model_the_reasons_of_failures_and_totals(tmp_path: Path) -> None:
    results = Results(tmp_path / "rows.jsonl")
    results.add(PASS)
    results.add(FAIL)
    results.add(PASS | {"model": "s3d", "prunable_inside": 0.9, "fixed": [["odd shape", 7]], "stays": [["mix.weight", 1024]]})
    results.add({"kind": "torch-pruning", "model": "resnet18", "error": None, "outcome": "pass", "prune_s": 0.5})
    results.add({"kind": "torch-pruning", "model": "swin_t", "error": "memory: more than 6 GiB"})
    text = document(results, {"resnet18": "classification", "swin_t": "classification", "s3d": "video"})
    assert "| classification | 2 | 1 | 1 of 1 | 100.0 % | 0.6 s (0.3 s) | 16 MiB | 1 of 2 |" in text
    expected = (
        "| resnet18 | 12 | 99.9 % | 100.0 % | 11.7 → 3.06 | 1,814 → 483 | 0.6 (0.3) | 16 MiB | 949 MiB | modules | 3e-07 | yes | 0.5 s |"
    )
    assert expected in text
    assert "- swin_t: VerificationError: outputs \\| differ" in text
    assert "memory: more than 6 GiB |" in text
    assert "- s3d: mix.weight stays (1,024 elements); 7 channels: odd shape" in text


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The children that are run, each of which gives a row without measuring; swin_t fails."""
    called: list[tuple[str, str]] = []

    def instead(kind: str, name: str, limits: Limits) -> dict:
        called.append((kind, name))
        return (FAIL if name == "swin_t" else PASS | {"model": name}) | {"version": code_version(kind)}

    monkeypatch.setattr(main, "run_child", instead)
    return called


def test_a_failing_model_is_exit_1_and_only_what_is_asked_for_is_run(tmp_path: Path, children, capsys) -> None:
    where = ["--results", str(tmp_path / "rows.jsonl"), "--docs", str(tmp_path / "docs" / "coverage.md")]
    assert main.main(["--only", "resnet18", *where, "--json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["resnet18"]
    assert main.main(["--only", "resnet18", "swin_t", "--resume", *where]) == 1
    assert children == [("edgeprune", "resnet18"), ("edgeprune", "swin_t")]
    assert main.main(["--only", "resnet18", "swin_t", "--missing", *where]) == 1
    assert children[2:] == [("edgeprune", "swin_t")]
    assert "| resnet18 |" in (tmp_path / "docs" / "coverage.md").read_text()
    assert main.main(["--family", "optical flow", *where]) == 0
    assert sorted(name for _, name in children[3:]) == ["raft_large", "raft_small"]


@pytest.mark.parametrize(("option", "said"), [("--only", "unknown model resnet17"), ("--family", "unknown family resnet17")])
def test_what_is_unknown_is_named(option: str, said: str, tmp_path: Path, children) -> None:
    with pytest.raises(SystemExit, match=said):
        main.main([option, "resnet17", "--results", str(tmp_path / "rows"), "--docs", str(tmp_path / "doc")])
    assert children == []


def test_a_child_measures_a_model_and_keeps_to_its_limits() -> None:
    row = run_child("edgeprune", "zoo/ds_cnn", Limits(120, 8 << 30))
    assert row["error"] is None
    assert (row["groups"], row["mode"], row["unsupported"]) == (5, "modules", [])
    assert row["parameters_before"] == 64 * 40 + 4 * (64 * 9 + 64 * 64) + 9 * 128 + 64 * 12 + 12
    assert row["parameters_after"] == 32 * 40 + 4 * (32 * 9 + 32 * 32) + 9 * 64 + 32 * 12 + 12
    assert row["trains"] == "yes"
    assert 0 < row["analysis_peak_bytes"] < row["peak_bytes"]
    assert run_child("edgeprune", "zoo/ds_cnn", Limits(120, 16 << 20))["error"] == "memory: more than 0.015625 GiB"
    assert run_child("edgeprune", "zoo/ds_cnn", Limits(0.2, 8 << 30))["error"] == "timeout: more than 0.2 s"


class Heads(nn.Module):
    """A second output in training, which may be computed from what is detached."""

    def __init__(self, outputs: int = 2, attached: bool = True) -> None:
        super().__init__()
        self.outputs, self.attached = outputs, attached
        self.body, self.head, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> object:
        x = self.body(x).mean((2, 3))
        if not self.training or self.outputs == 1:
            return self.head(x)
        return self.head(x), self.aux(x) if self.attached else self.aux(x).detach()


def test_a_training_step_is_compared_with_the_uncut_models() -> None:
    inputs = (torch.zeros(1, 3, 8, 8),)
    assert training_step(Heads(), Heads(), "zoo", inputs) == "yes"
    with pytest.raises(TrainingStepError, match="gives"):
        training_step(Heads(), Heads(outputs=1), "zoo", inputs)
    with pytest.raises(TrainingStepError, match=r"aux\.weight"):
        training_step(Heads(), Heads(attached=False), "zoo", inputs)
    assert training_step(nn.Linear(3, 2), Heads(), "zoo", inputs).startswith("uncut: RuntimeError")


def test_detectors_are_given_boxes_and_classes_to_train() -> None:
    images, targets = detection_batch(64)
    assert len(images) == len(targets) == 2
    assert targets[0]["boxes"].shape == (1, 4)


def test_a_child_that_cannot_measure_is_a_row_with_the_reason() -> None:
    assert "KeyError: 'zoo/none'" in run_child("edgeprune", "zoo/none", Limits(120, 8 << 30))["error"]
