"""What every engine of the runner must do.  Inherit from :class:`EngineContract` and give the fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


class EngineContract:
    """Fixtures to give.

    ``engine``: an engine; ``model``: the path of a model that multiplies its only input, float32 of shape (1, n), by a matrix; ``weights``:
    that matrix, (m, n); ``specs``: what to say about inputs the file does not describe, or None; ``refused``: the class of error for
    a file that cannot be loaded.
    """

    def test_reports_its_package_and_version(self, engine: Any) -> None:
        package, version = engine.runtime()
        assert package in engine.packages
        assert engine.installed() == (package, version)

    @pytest.mark.parametrize("as_bytes", [False, True])
    def test_computes(self, engine: Any, model: Path, weights: np.ndarray[Any, Any], specs: Any, as_bytes: bool) -> None:
        loaded = engine.load(model.read_bytes() if as_bytes else str(model), 1, specs)
        values = np.random.default_rng(1).standard_normal((1, weights.shape[1])).astype(np.float32)
        loaded.set_inputs([values])
        loaded.run()
        (output,) = loaded.outputs()
        np.testing.assert_allclose(output, values @ weights.T, rtol=1e-4, atol=1e-4)

    def test_runs_again_on_other_inputs(self, engine: Any, model: Path, weights: np.ndarray[Any, Any], specs: Any) -> None:
        loaded = engine.load(str(model), 2, specs)
        for factor in (1.0, 2.0):
            loaded.set_inputs([np.full((1, weights.shape[1]), factor, dtype=np.float32)])
            loaded.run()
            loaded.run()
            np.testing.assert_allclose(loaded.outputs()[0], factor * weights.sum(1, keepdims=True).T, rtol=1e-3, atol=1e-3)

    def test_reports_its_inputs(self, engine: Any, model: Path, weights: np.ndarray[Any, Any], specs: Any) -> None:
        assert engine.load(str(model), 1, specs).specs == [{"shape": [1, weights.shape[1]], "dtype": "float32"}]

    def test_refuses_inputs_that_do_not_fit(
        self, engine: Any, model: Path, weights: np.ndarray[Any, Any], specs: Any, refused: Any
    ) -> None:
        loaded = engine.load(str(model), 1, specs)
        size = weights.shape[1]
        for wrong in ([], [np.zeros((1, size + 1), np.float32)], [np.zeros((1, size), np.float64)]):
            with pytest.raises(refused, match="inputs"):
                loaded.set_inputs(wrong)

    def test_refuses_a_damaged_file(self, engine: Any, model: Path, specs: Any, refused: Any, tmp_path: Path) -> None:
        damaged = tmp_path / f"damaged{model.suffix}"
        damaged.write_bytes(b"\0" * 100)
        with pytest.raises(refused):
            engine.load(str(damaged), 1, specs)
