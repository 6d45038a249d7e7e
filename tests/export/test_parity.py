"""What counts as the same output."""

from __future__ import annotations

import math

import pytest
import torch

from edgeprune.errors import ParityError
from edgeprune.export.parity import compare, fidelity


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


@pytest.mark.parametrize("values", [[float("nan"), 1.0], [1.0, float("nan"), float("inf")], [float("nan")]])
def test_nan_on_both_sides_is_not_evidence(values):
    with pytest.raises(ParityError, match=r"onnx: output 1: the PyTorch model itself gives NaN at \[\d\]"):
        compare("onnx", [torch.ones(1), torch.tensor(values)], [torch.ones(1), torch.tensor(values)], 1e-3)
    several = [[torch.tensor([[0.1, 0.9, *values]])]] * 8
    assert not fidelity(several, several).good
    assert "gives NaN" in str(fidelity(several, several))
    numbers = [[torch.nan_to_num(one[0], 0.5, 0.5, 0.5)] for one in several]
    assert not fidelity(numbers, several).good


def test_infinities_of_one_sign_are_equal_but_alone_no_evidence():
    masked = torch.tensor([[0.5, -math.inf], [0.2, 0.7]])
    assert compare("pt2", [masked], [masked.clone()], 1e-3).max_abs == 0.0
    assert fidelity([[masked]] * 8, [[masked]] * 8).good
    with pytest.raises(ParityError, match="inf"):
        compare("pt2", [masked], [-masked], 0.5)
    with pytest.raises(ParityError, match="infinities only"):
        compare("pt2", [torch.full((2,), -math.inf)], [torch.full((2,), -math.inf)], 1e-3)


@pytest.mark.parametrize("values", [[float("inf"), 1.0], [0.0, 0.0], []])
def test_equal_outputs(values):
    assert compare("pt2", [torch.tensor(values)], [torch.tensor(values)], 1e-3).max_abs == 0.0


def test_integers_may_have_another_width():
    assert compare("tflite", [torch.tensor([3, 4])], [torch.tensor([3, 4], dtype=torch.int32)], 1e-3).max_abs == 0.0


def test_a_missing_output_and_another_shape():
    with pytest.raises(ParityError, match="1 outputs and the PyTorch model 2"):
        compare("tflite", [torch.ones(1), torch.ones(1)], [torch.ones(1)], 1e-3)
    with pytest.raises(ParityError, match=r"output 0 has shape \(2, 1\), expected \(1, 2\)"):
        compare("tflite", [torch.ones(1, 2)], [torch.ones(2, 1)], 1e-3)
