"""The earlier name of :mod:`edgeprune.bench.limits`."""

from edgeprune.bench.limits import Gate, Judged, Judgement, judge_report, parse_gate

__all__ = ["Gate", "Judged", "Judgement", "judge_report", "parse_gate"]
