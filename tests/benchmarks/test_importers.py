"""The table of imported files, and one of its rows."""

from __future__ import annotations

from torch import nn

from benchmarks.importers import cases
from benchmarks.importers.__main__ import document
from benchmarks.importers.measure import measure


def test_a_row_and_the_page(tmp_path, monkeypatch):
    import torch

    monkeypatch.setitem(cases.MODELS, "tiny", lambda: (nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)), (torch.randn(2, 6),)))
    row = measure("tiny, TorchScript", tmp_path, tmp_path)
    assert (row["groups"], row["any_batch"], row["unsupported"]) == (1, True, [])
    assert row["left"] == 6 * 12 + 12 + 12 * 3 + 3
    assert row["cut_difference"] < 1e-4
    page = document([row | {"onnx2torch": "yes", "onnx2pytorch": "differs by 1e-01"}, {"name": "bad", "error": "it is damaged"}])
    assert "1 of 2 files pass all of it" in page
    assert "| tiny, TorchScript | torch, TorchScript | 17 |" in page
    assert "it is damaged" in page
    assert "they do all of it for: onnx2torch for 1, onnx2pytorch for 0" in page
