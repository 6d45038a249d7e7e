"""Where there is no cluster, and what a node lacks: one message each.  ``test_ray_faults`` has clusters that run."""

from __future__ import annotations

import socket

import pytest

from edgeprune.errors import WorkerError
from edgeprune.execute import executor_of
from edgeprune.execute.broker import differ
from edgeprune.execute.node import versions


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.execute.onray.find_spec", lambda _: None)
    with pytest.raises(WorkerError) as caught:
        executor_of("ray")
    assert str(caught.value).startswith("Ray is not installed\nInstall it: pip install 'edgeprune[ray]'")


def test_an_address_where_nothing_answers() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # a port where nobody listens
        port = held.getsockname()[1]
        with pytest.raises(WorkerError, match=rf"^no Ray cluster answers at ray://127.0.0.1:{port}: .*refused") as caught:
            executor_of(f"ray://127.0.0.1:{port}")
    assert "ray start --head" in str(caught.value.remedy)
    with pytest.raises(WorkerError, match=r"^no Ray cluster answers at ray://nobody\.invalid:6379: "):
        executor_of("ray://nobody.invalid")


@pytest.mark.soak
def test_an_address_where_something_else_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.execute.onray.CONNECT_S", 20.0)
    with socket.create_server(("", 0)) as other, pytest.raises(WorkerError, match="cannot be used: no answer within 20 s"):
        executor_of(f"ray://127.0.0.1:{other.getsockname()[1]}")


def test_a_node_with_other_versions_is_named_with_both() -> None:
    differ(versions(), versions(), "node a")
    with pytest.raises(WorkerError, match=r"^node b would make other candidates: PyTorch is 1\.0 there and 2\."):
        differ(versions(), versions() | {"PyTorch": "1.0"}, "node b")
    with pytest.raises(WorkerError, match=r"^node c cannot import edgeprune"):
        differ(versions(), {"missing": "edgeprune"}, "node c")
