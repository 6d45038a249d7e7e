"""What counts as the same output."""

from __future__ import annotations

import pytest
import torch

from edgeprune.errors import ParityError
from edgeprune.export.parity import compare


def test_the_largest_error_is_reported_in_units_and_relative_to_the_output():
    result = compare("tflite", [torch.tensor([10.0, -20.0])], [torch.tensor([10.0, -20.01])], 1e-3)
    assert result.max_abs == pytest.approx(0.01, rel=1e-3)
    assert result.max_rel == pytest.approx(0.0005, rel=1e-3)


def test_the_worst_element_is_named():
    want, got = torch.zeros(2, 3), torch.zeros(2, 3)
    want[0, 0], got[1, 2] = 10.0, 0.5
    got[0, 0] = 10.0
    with pytest.raises(ParityError, match=r"tflite: output 1 differs from the PyTorch model at \[1, 2\]: 0.5, expected 0 .*allowed 0.01"):
        compare("tflite", [torch.ones(1), want], [torch.ones(1), got], 1e-3)


@pytest.mark.parametrize(
    ("want", "got"),
    [
        ([1, 2], [1, 3]),
        ([True, False], [True, True]),
        ([1.0, 2.0], [1.0, float("nan")]),
        ([1.0, float("nan")], [1.0, 2.0]),
        ([1.0], [float("inf")]),
    ],
)
def test_different_outputs(want, got):
    with pytest.raises(ParityError):
        compare("pt2", [torch.tensor(want)], [torch.tensor(got)], 0.5)


@pytest.mark.parametrize("values", [[float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0], []])
def test_equal_outputs(values):
    assert compare("pt2", [torch.tensor(values)], [torch.tensor(values)], 1e-3).max_abs == 0.0


def test_integers_may_have_another_width():
    assert compare("tflite", [torch.tensor([3, 4])], [torch.tensor([3, 4], dtype=torch.int32)], 1e-3).max_abs == 0.0


def test_a_missing_output_and_another_shape():
    with pytest.raises(ParityError, match="1 outputs and the PyTorch model 2"):
        compare("tflite", [torch.ones(1), torch.ones(1)], [torch.ones(1)], 1e-3)
    with pytest.raises(ParityError, match=r"output 0 has shape \(2, 1\), expected \(1, 2\)"):
        compare("tflite", [torch.ones(1, 2)], [torch.ones(2, 1)], 1e-3)
