"""What a user says of workers."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from edgeprune.cli.options import workers_options
from edgeprune.errors import InputError
from edgeprune.execute import InProcess, Processes, executor_of, parse_workers
from edgeprune.execute.choose import Workers


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        (None, Workers()),
        ("1", Workers()),
        (4, Workers(4)),
        (" 4 ", Workers(4)),
        ("ray", Workers(ray=True)),
        ("ray://head:7000", Workers(ray=True, address="head:7000")),
        ("ray:head.example.org:7000", Workers(ray=True, address="head.example.org:7000")),
        ("ray://192.0.2.2/", Workers(ray=True, address="192.0.2.2:6379")),
    ],
)
def test_the_forms(text: str | int | None, workers: Workers) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize(
    "text", ["", "four", "0", "-2", "1.5", "1000000", "ray:", "ray://", "ray://a b", "ray://head:99999", "dask://head"]
)
def test_what_is_none_of_them_is_answered_with_the_forms(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_workers(text)
    assert "ray://HOST:PORT" in str(caught.value)


def test_an_executor_is_itself_and_one_worker_is_this_process() -> None:
    made = Processes(2)
    assert executor_of(made) is made
    made.close()
    assert isinstance(executor_of(None), InProcess)
    assert isinstance(executor_of(1), InProcess)


def test_commands_refuse_malformed_workers_before_anything_else() -> None:
    @click.command()
    @workers_options
    def command(workers: str | None, gpus_per_candidate: float | None) -> None:
        click.echo(f"{workers} {gpus_per_candidate}")

    assert CliRunner().invoke(command, []).output == "None None\n"
    assert CliRunner().invoke(command, ["--workers", "ray", "--gpus-per-candidate", "0.5"]).output == "ray 0.5\n"
    assert isinstance(CliRunner().invoke(command, ["--workers", "many"]).exception, InputError)
    assert CliRunner().invoke(command, ["--gpus-per-candidate", "0"]).exit_code == 2
