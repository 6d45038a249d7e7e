"""What every measurement backend must do.  Inherit from :class:`BackendContract` and give the fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from edgeprune.cost.kernels import kernels
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import MeasurementBackend
from edgeprune.search.plan.planner import all_choices

Opener = Callable[[RunDirectory], MeasurementBackend]
Probe = tuple[Sequence[Tensor], Sequence[Tensor]]


class BackendContract:
    """Fixtures to give.

    ``open_backend``: makes the backend for a run directory. ``analysis``: of a model; ``dense``, ``smaller``: files that it runs, the
    second of fewer bytes; ``probe``: inputs of ``dense``, and the outputs it gives.
    """

    @pytest.fixture
    def run(self, tmp_path: Path) -> Iterator[RunDirectory]:
        directory = RunDirectory(tmp_path / "run")
        yield directory
        directory.close()

    @pytest.fixture
    def backend(self, open_backend: Opener, run: RunDirectory) -> Iterator[MeasurementBackend]:
        opened = open_backend(run)
        yield opened
        opened.release()

    def test_it_says_what_it_runs(self, backend: MeasurementBackend) -> None:
        assert {"engine", "threads", "profile"} <= set(backend.facts)
        assert backend.precision.format == backend.facts["engine"]
        assert backend.target
        assert json.dumps(backend.description())

    def test_kernel_times_are_positive_at_all_widths(self, backend: MeasurementBackend, analysis: Analysis) -> None:
        found, choices = kernels(analysis), all_choices(analysis, 8)
        times = backend.kernel_times(found, choices)
        for widths in ({name: allowed[-1] for name, allowed in choices.items()}, {name: allowed[0] for name, allowed in choices.items()}):
            for kernel in found:
                assert times.milliseconds(kernel, kernel.in_width.at(widths), kernel.out_width.at(widths)) >= 0

    def test_either_everything_is_measured_or_nothing(self, backend: MeasurementBackend, dense: Path, smaller: Path) -> None:
        alone, pair = backend.measure_dense(dense), backend.measure_pair("candidate", dense, smaller)
        assert (alone is None) == (pair is None)
        if alone is not None and pair is not None:
            assert alone.latency_ms > 0
            assert 0 < pair.low <= pair.ratio <= pair.high
            assert pair.model.file_bytes < pair.dense.file_bytes == dense.stat().st_size
            assert backend.measurements > 0

    def test_what_was_measured_is_recalled(self, open_backend: Opener, run: RunDirectory, dense: Path, smaller: Path) -> None:
        first = open_backend(run)
        before = first.measure_dense(dense), first.measure_pair("candidate", dense, smaller)
        first.release()
        again = open_backend(run)
        after = again.measure_dense(dense), again.measure_pair("candidate", dense, smaller)
        assert repr(after) == repr(before)  # a time that is not known is NaN
        assert again.measurements == 0
        again.release()

    def test_outputs_that_agree_pass(self, backend: MeasurementBackend, dense: Path, probe: Probe) -> None:
        inputs, expected = probe
        backend.check_outputs(dense, inputs, lambda: expected, backend.precision.tolerance)

    def test_an_archive_is_one_or_none(self, backend: MeasurementBackend, analysis: Analysis) -> None:
        kept = backend.archive(analysis, backend.precision)
        assert kept is None or isinstance(kept, Archive)

    def test_release_may_be_called_at_any_time(self, backend: MeasurementBackend, dense: Path) -> None:
        backend.release()
        backend.release()
        measured = backend.measure_dense(dense)
        backend.release()
        assert repr(backend.measure_dense(dense)) == repr(measured)
