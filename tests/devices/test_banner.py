"""A device whose shell prints lines of its own before and between what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.devices import connect
from edgeprune.devices.pythons import discover
from edgeprune.devices.session import Completed, Session
from edgeprune.devices.upload import Upload


def test_pythons_are_found_behind_a_banner(client_home: Path) -> None:
    with connect("local:") as session:
        expected = discover(session, ["python3"])

        class Noisy:
            address = session.address

            def run(self, argv: list[str]) -> Completed:
                done = session.run(argv)
                begun = done.stdout.replace(b"\n[", b"\nhello from sitecustomize\n7\n[")
                return replace(done, stdout=b"Welcome!\n\n/motd\n[1]\n" + begun + b"{}\nbye")

        noisy: Any = Noisy()
        assert isinstance(session, Session)
        assert discover(noisy, ["python3"]) == expected


def test_an_upload_goes_on_behind_a_banner() -> None:
    sent: list[bytes] = []

    class Process:
        def follow(self, _: float, take: Callable[[str], None]) -> Completed:
            for line in ("", "Welcome!", "have fun today, user", "have a token", "have 2 none", "done"):
                take(line)
            return Completed(0, b"", b"")

        def write(self, data: bytes) -> None:
            sent.append(data)

        def close_input(self) -> None:
            sent.append(b"end")

    process: Any = Process()
    assert Upload(b"model", "/m", "ssh://pi", None).run(process, lambda data, _: sent.append(bytes(data)), None)
    assert sent == [b"0\n", b"model", b"end"]
