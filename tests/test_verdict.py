"""The one rule for verdicts, and what each verdict and error means for a script."""

from __future__ import annotations

import json
import math

import click
import pytest

from edgeprune.cli import main
from edgeprune.cli.exit_codes import MEANINGS, OF_VERDICT, Exit, of_error
from edgeprune.errors import GateError, InfeasibleBudgetError, InputError
from edgeprune.verdict import Interval, Verdict, judge, overall

MET, MISSED, UNDECIDED = Verdict.MET, Verdict.MISSED, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Interval(0.486, 0.355, 0.666), UNDECIDED),  # the estimate is good, what is known of it is not
        (Interval(0.52, 0.49, 0.55), UNDECIDED),
        (Interval(0.48, 0.47, 0.49), MET),
        (Interval(0.49, 0.48, 0.50), MET),
        (Interval(0.53, 0.51, 0.55), MISSED),
        (Interval(0.6, 0.51, math.inf), MISSED),
        (Interval(0.4, 0.0, math.inf), UNDECIDED),
        (Interval(0.4, math.nan, math.nan), UNDECIDED),
        (Interval.exact(math.nan), UNDECIDED),
        (Interval.exact(0.5), MET),
        (Interval.exact(0.51), MISSED),
        (None, UNDECIDED),
    ],
)
def test_a_limit_is_met_only_where_all_of_the_interval_is_inside(found: Interval | None, expected: Verdict) -> None:
    assert judge(found, 0.5) == expected


def test_a_lower_limit_is_the_same_rule_the_other_way_round() -> None:
    assert [judge(Interval(0.9, low, 0.95), 0.9, at_least=True) for low in (0.91, 0.89)] == [MET, UNDECIDED]
    assert judge(Interval(0.8, 0.7, 0.85), 0.9, at_least=True) == MISSED
    assert judge(Interval.exact(0.9), 0.9, at_least=True) == MET
    assert judge(Interval.exact(0.9), math.nan) == UNDECIDED


def test_nothing_judged_is_not_met() -> None:
    assert overall([]) == UNDECIDED
    assert overall([MET, MET]) == MET
    assert overall([MET, UNDECIDED]) == UNDECIDED
    assert overall([UNDECIDED, MISSED, MET]) == MISSED


def test_every_way_to_end_has_a_number_of_its_own() -> None:
    errors = [InputError("x"), InfeasibleBudgetError("x"), ValueError("x"), KeyboardInterrupt()]
    codes = [*OF_VERDICT.values(), *map(of_error, errors), Exit.USAGE]
    assert len(set(codes)) == len(codes) == 8
    assert {str(int(code)) for code in codes} <= set(MEANINGS)
    assert of_error(GateError("x", verdict=UNDECIDED)) == Exit.UNDECIDED
    assert of_error(GateError("x")) == Exit.MISSED


@pytest.mark.parametrize("arguments", [["--help"], ["prune", "--help"], ["bench", "--help"]])
def test_help_lists_the_exit_codes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for code, meaning in MEANINGS.items():
        assert f"{code} {meaning.split(';')[0].split(',')[0].split(':')[0]}" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["bench", "none.tflite", "--target", "nowhere", "--json"], 1, "TargetError"),
        (["bench", "--json"], 2, "MissingParameter"),
        (["bench", "m.tflite", "--json", "--unknown"], 2, "NoSuchOption"),
        (["prune", "--json"], 2, "UsageError"),
        (["nothing", "--json"], 2, "NoSuchCommand"),
    ],
)
def test_an_error_is_one_json_document_too(arguments: list[str], code: int, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["error"]["kind"], document["exit_code"]) == (kind, code)
    assert document["error"]["message"]
    assert captured.err


def test_a_fault_and_an_interrupt_are_documents_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeprune.cli import bench

    for error, code in ((ZeroDivisionError("x"), 70), (KeyboardInterrupt(), 130), (InfeasibleBudgetError("x"), 5)):

        def callback(error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(
            bench, "command", click.Command("bench", callback=callback, params=[click.Option(["--json"], is_flag=True, expose_value=False)])
        )
        assert main(["bench", "--json"]) == code
        assert json.loads(capsys.readouterr().out)["exit_code"] == code
