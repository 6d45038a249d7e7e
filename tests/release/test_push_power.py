"""The device's part of a release, cut off before any change it makes to its disk, with what was not synced lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from edgeprune.targets.activator.app import answer

from edgeprune.devices.pack import pack
from edgeprune.errors import SignatureError
from edgeprune.release.deploy.store import _error

CHANGES = ("fsync", "replace", "rename", "link", "symlink", "unlink", "mkdir", "rmdir")


class PowerCut(BaseException):
    """Not to be caught by what runs."""


class Disk:
    """Counts the changes made below a folder; before number ``at``, the power goes."""

    def __init__(self, root: Path, at: int) -> None:
        self.root, self.at, self.count = root, at, 0
        self.synced = {path.stat().st_ino: path.stat().st_mtime_ns for path in root.rglob("*")}
        self.names: list[str] = []

    def watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            self.names.append(f"{name} {' '.join(item for item in arguments if isinstance(item, str))}")
            if self.count == self.at:
                raise PowerCut
            if name == "fsync":
                found = os.fstat(arguments[0])
                self.synced[found.st_ino] = found.st_mtime_ns
            return real(*arguments, **options)

        return call

    def sync_objects(self) -> None:
        """As an upload does with each."""
        self.synced.update({path.stat().st_ino: path.stat().st_mtime_ns for path in (self.root / "objects").iterdir()})

    def lose(self) -> None:
        """Empty every file whose content was not synced, as file systems do that delay writing."""
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink() and self.synced.get(path.stat().st_ino) != path.stat().st_mtime_ns:
                path.write_bytes(b"")


@contextmanager
def power(root: Path, at: int) -> Iterator[Disk]:
    disk = Disk(root, at)
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, disk.watched(name, getattr(os, name)))
        try:
            yield disk
        except PowerCut:
            patch.undo()
            disk.lose()


def about(version: str, sequence: int, files: dict[str, bytes]) -> dict[str, Any]:
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    return {"version": version, "sequence": sequence, "variant": "any", "manifest": f"{sequence:064x}", "files": entries}


def files(version: str) -> dict[str, bytes]:
    return {
        "manifest.json": version.encode() * 10,
        "model": version.encode() * 1000,
        "deep/labels.txt": version.encode(),
        "LICENSE": b"the same in all",
    }


def do(root: Path, command: str, **arguments: Any) -> dict[str, Any]:
    done = answer(command, {"root": str(root)} | arguments)
    assert "error" not in done, done
    return done


def send(root: Path, content: dict[str, bytes], missing: list[str]) -> None:
    """As an upload does."""
    for data in content.values():
        digest = hashlib.sha256(data).hexdigest()
        if digest in missing:
            (root / "objects" / digest).write_bytes(data)


def push(root: Path, version: str, sequence: int, sync: Callable[[], None] = lambda: None) -> None:
    told = about(version, sequence, files(version))
    begun = do(root, "begin", token=version, about=told, expires_s=None, signers=None, replace=False)
    send(root, files(version), begun["missing"])
    sync()
    do(root, "stage", token=version, about=told, check=None)
    do(root, "switch", token=version, version=version)
    do(root, "commit", token=version, version=version, now_s=1.0)


def seen(root: Path) -> str | None:
    """The version that a program sees: all of its files, and nothing of another."""
    current = root / "current"
    if not current.is_symlink():
        return None
    found = {str(path.relative_to(current)): path.read_bytes() for path in current.rglob("*") if path.is_file()}
    version = found["deep/labels.txt"].decode()
    assert {name: found[name] for name in files(version)} == files(version)
    assert json.loads(found["release.json"])["version"] == version
    return version


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here outlives the test: what would be synced is only noted."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "gadget"
    push(root, "1.0.0", 1)
    push(root, "1.1.0", 2)
    return root


WORK: dict[str, Callable[[Path, Callable[[], None]], None]] = {
    "push": lambda root, sync: push(root, "1.2.0", 3, sync),
    "push again": lambda root, sync: push(root, "1.1.0", 2, sync),
    "rollback": lambda root, sync: (
        do(root, "rollback", token="r", version=None),
        do(root, "commit", token="r", version="1.0.0", now_s=1.0),
        None,
    )[-1],
    "give up": lambda root, sync: (
        do(root, "rollback", token="r", version=None),
        do(root, "abandon", token="r", version="1.0.0", remove=False),
        None,
    )[-1],
    "prune": lambda root, sync: (push(root, "1.2.0", 3, sync), do(root, "prune", keep=1), None)[-1],
}
ALLOWED = {
    "push": {"1.1.0", "1.2.0"},
    "push again": {"1.1.0"},
    "rollback": {"1.1.0", "1.0.0"},
    "give up": {"1.1.0", "1.0.0"},
    "prune": {"1.1.0", "1.2.0"},
}


@pytest.mark.parametrize("work", WORK)
def test_whatever_change_is_the_last_a_whole_release_is_in_use_and_work_continues(root: Path, tmp_path: Path, work: str) -> None:
    template, at, cut, met = tmp_path / "template", 0, True, set()
    shutil.copytree(root, template, symlinks=True)
    while cut:
        at, cut = at + 1, False
        shutil.rmtree(root)
        shutil.copytree(template, root, symlinks=True)
        with power(root, at) as disk:
            WORK[work](root, disk.sync_objects)
        cut = disk.count >= at
        in_use = seen(root)
        assert in_use in ALLOWED[work], (at, disk.names[-1])
        met.add(in_use)
        state = json.loads((root / "state.json").read_text())
        do(root, "recover")
        recovered = seen(root)
        assert recovered == state["committed"], (at, disk.names[-1])  # what was committed, no matter what was on trial
        push(root, "1.3.0", 4)
        assert seen(root) == "1.3.0"
        do(root, "prune", keep=1)
        assert not [name for name in os.listdir(root / "releases") if name.startswith(".")]
    assert met == ALLOWED[work]
    assert at > 5


def test_a_first_release_that_was_cut_off_leaves_nothing_in_use(tmp_path: Path) -> None:
    """Until it is committed; before the switch there is no `current`, on trial it is whole."""
    at, cut = 0, True
    while cut:
        at, cut = at + 1, False
        root = tmp_path / f"{at}"
        root.mkdir()
        with power(root, at) as disk:
            push(root, "1.0.0", 1, disk.sync_objects)
        cut = disk.count >= at
        assert seen(root) in (None, "1.0.0")
        if (root / "state.json").exists():
            committed = json.loads((root / "state.json").read_text())["committed"]
            do(root, "recover")
            assert seen(root) == committed
        push(root, "1.0.0", 1)
        assert seen(root) == "1.0.0"


def test_the_start_of_a_device_goes_back_to_what_is_committed(root: Path) -> None:
    """As its service does: the program alone, without input."""
    told = about("1.2.0", 3, files("1.2.0"))
    begun = do(root, "begin", token="t", about=told, expires_s=None, signers=None, replace=False)
    send(root, files("1.2.0"), begun["missing"])
    do(root, "stage", token="t", about=told, check=None)
    do(root, "switch", token="t", version="1.2.0")
    assert seen(root) == "1.2.0"
    program = root.parent / "activator.pyz"
    program.write_bytes(pack("activator"))
    done = subprocess.run([sys.executable, str(program), "recover", str(root.parent)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["gadget"]["recovered"] == "1.2.0"
    assert seen(root) == "1.1.0"


@pytest.mark.parametrize("name", ["../state.json", "/etc/passwd", "a/../../b", ".hidden", "release.json", "a//b", ""])
def test_no_name_leads_out_of_a_release(root: Path, name: str) -> None:
    told = about("1.2.0", 3, {name: b"x"})
    refused = answer("begin", {"root": str(root), "token": "t", "about": told, "expires_s": None, "signers": None, "replace": False})
    assert refused["kind"] == "name"
    told = about(f"../{name}", 3, {"model": b"x"})
    assert answer("stage", {"root": str(root), "token": "t", "about": told, "check": None})["kind"] == "name"


def test_a_push_that_another_has_overtaken_changes_nothing(root: Path) -> None:
    told = about("1.2.0", 3, files("1.2.0"))
    begin = {"about": told, "expires_s": None, "signers": None, "replace": False}
    send(root, files("1.2.0"), do(root, "begin", token="slow", **begin)["missing"])
    do(root, "stage", token="slow", about=told, check=None)
    push(root, "1.3.0", 4)
    for command, arguments in (
        ("stage", {"about": told, "check": None}),
        ("switch", {"version": "1.2.0"}),
        ("commit", {"version": "1.2.0", "now_s": 1}),
    ):
        assert answer(command, {"root": str(root), "token": "slow"} | arguments)["kind"] == "superseded"
    assert seen(root) == "1.3.0"


def test_an_object_that_rots_is_sent_again_and_the_release_mended(root: Path) -> None:
    model = next(path for path in (root / "objects").iterdir() if path.read_bytes() == files("1.1.0")["model"])
    with model.open("r+b") as file:
        file.write(b"rotten")
    assert do(root, "status", deep=True)["releases"][1]["damaged"] == ["model"]
    push(root, "1.1.0", 2)
    assert do(root, "status", deep=True)["releases"][1]["damaged"] == []
    assert seen(root) == "1.1.0"


def test_a_release_whose_description_is_damaged_is_mended_by_a_push_and_keeps_no_other_from_working(root: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        (root / "releases" / version / "release.json").write_text("{")
    found = {release["version"]: release["damaged"] for release in do(root, "status", deep=True)["releases"]}
    assert found == {"1.0.0": ["release.json"], "1.1.0": ["release.json"]}
    push(root, "1.1.0", 2)
    assert seen(root) == "1.1.0"
    assert do(root, "status", deep=True)["releases"][0]["damaged"] == []
    push(root, "1.2.0", 3)
    do(root, "prune", keep=1)
    assert seen(root) == "1.2.0"


def test_a_damaged_state_is_named_and_without_it_what_is_in_use_stays(root: Path) -> None:
    (root / "state.json").write_text("")
    for command, arguments in (("status", {}), ("recover", {}), ("prune", {"keep": 1})):
        refused = answer(command, {"root": str(root)} | arguments)
        assert (refused["kind"], refused["error"]) == ("state", f"{root}/state.json is damaged")
    (root / "state.json").unlink()
    do(root, "recover")
    assert seen(root) == "1.1.0"
    push(root, "1.2.0", 3)
    assert seen(root) == "1.2.0"


@pytest.mark.parametrize("text", ["[]", '{"committee": "1.0.0"}', "5"])
def test_a_state_of_another_form_is_damaged(root: Path, text: str) -> None:
    (root / "state.json").write_text(text)
    assert answer("status", {"root": str(root)})["kind"] == "state"


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '{"sequence": "x", "version": "1.0.0", "variant": "any", "manifest": "0", "files": {}}',
     '{"sequence": 1, "version": "1.0.0", "variant": "any", "manifest": "0", "files": {"model": 5}}'],
)  # fmt: skip
def test_a_description_of_another_form_keeps_nothing_from_working(root: Path, text: str) -> None:
    (root / "releases/1.0.0/release.json").unlink()
    (root / "releases/1.0.0/release.json").write_text(text)
    assert do(root, "status")["releases"][1]["damaged"] == ["release.json"]
    assert answer("rollback", {"root": str(root), "token": "r"})["kind"] == "unknown"
    push(root, "1.2.0", 3)
    assert do(root, "prune", keep=1)["removed"] == ["1.0.0"]  # which nobody can use
    assert seen(root) == "1.2.0"


def test_what_is_in_use_after_a_rollback_is_mended_and_nothing_else_that_is_older(root: Path) -> None:
    WORK["rollback"](root, lambda: None)
    push(root, "1.0.0", 1)
    (root / "releases/1.0.0/model").write_bytes(b"rotten")
    push(root, "1.0.0", 1)
    assert seen(root) == "1.0.0"
    begin = {"root": str(root), "token": "t", "expires_s": None, "signers": None, "replace": False}
    other = about("1.0.0", 1, files("1.0.0")) | {"manifest": f"{9:064x}"}
    assert answer("begin", begin | {"about": other})["kind"] == "older"
    push(root, "1.1.0", 2)
    assert answer("begin", begin | {"about": about("1.0.0", 1, files("1.0.0"))})["kind"] == "older"


def test_signers_of_a_push_that_did_not_end_are_not_those_of_a_rollback(root: Path) -> None:
    told = about("1.2.0", 3, files("1.2.0"))
    do(root, "begin", token="t", about=told, expires_s=None, signers="another\n", replace=True)
    do(root, "rollback", token="r", version=None)
    do(root, "commit", token="r", version="1.0.0", now_s=0.0)
    assert not (root / "allowed_signers").exists()


def test_a_push_whose_objects_were_removed_meanwhile_ends_and_says_so(root: Path) -> None:
    told = about("1.2.0", 3, files("1.2.0"))
    send(root, files("1.2.0"), do(root, "begin", token="t", about=told, expires_s=None, signers=None, replace=False)["missing"])
    do(root, "prune", keep=1)
    refused = answer("stage", {"root": str(root), "token": "t", "about": told, "check": None})
    assert (refused["kind"], "releases were removed" in refused["error"]) == ("superseded", True)
    push(root, "1.2.0", 3)
    assert seen(root) == "1.2.0"


def test_what_another_left_half_written_is_in_nobodys_way(root: Path, tmp_path: Path) -> None:
    """As a file of another user's would be, which this one may not write."""
    (tmp_path / "precious").write_text("precious")
    (root / "state.json.new").symlink_to(tmp_path / "precious")
    push(root, "1.2.0", 3)
    assert ((tmp_path / "precious").read_text(), seen(root)) == ("precious", "1.2.0")


@pytest.mark.parametrize(("mode", "file_mode"), [(0o755, 0o644), (0o700, 0o600), (0o775, 0o664), (0o777, 0o664)])
def test_a_release_is_readable_by_whom_the_folder_of_all_is(tmp_path: Path, mode: int, file_mode: int) -> None:
    (tmp_path / "activator.pyz").write_bytes(pack("activator"))
    base, told, content = tmp_path / "base", about("1.0.0", 1, files("1.0.0")), files("1.0.0")
    base.mkdir()
    base.chmod(mode)

    def run(command: str, **arguments: Any) -> dict[str, Any]:
        request = json.dumps({"root": str(base / "gadget"), "token": "t"} | arguments).encode()
        program = [sys.executable, str(tmp_path / "activator.pyz"), command]
        return json.loads(subprocess.run(program, input=request, stdout=subprocess.PIPE, check=True, umask=0o077).stdout)

    send(base / "gadget", content, run("begin", about=told, expires_s=None, signers=None, replace=False)["missing"])
    for path in (base / "gadget/objects").iterdir():
        path.chmod(0o600)
    place = Path(run("stage", about=told, check=None)["path"])
    made = [place, *place.rglob("*"), *place.parent.parent.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {file_mode}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {mode & ~0o002}


def test_a_file_that_rots_in_two_releases_is_mended_in_both(root: Path) -> None:
    shared = root / "releases/1.0.0/LICENSE"
    assert shared.samefile(root / "releases/1.1.0/LICENSE")
    with shared.open("r+b") as file:
        file.write(b"rotten")
    refused = answer("rollback", {"root": str(root), "token": "r"})
    assert "is damaged there" in refused["error"]
    assert "with a newer version" in refused["error"]  # an older one cannot be pushed again
    push(root, "1.1.0", 2)
    assert [release["damaged"] for release in do(root, "status", deep=True)["releases"]] == [[], []]
    do(root, "rollback", token="r")
    assert seen(root) == "1.0.0"


def test_a_device_without_ssh_keygen_says_what_it_needs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = about("1.2.0", 3, files("1.2.0"))
    begun = do(root, "begin", token="t", about=told, expires_s=None, signers="nobody", replace=False)
    send(root, files("1.2.0"), begun["missing"])
    monkeypatch.setenv("PATH", "/nowhere")
    check = {"manifest": "manifest.json", "signatures": ["model"], "namespace": "n", "threshold": 1, "now_s": 1.0}
    refused = answer("stage", {"root": str(root), "token": "t", "about": told, "check": check})
    assert refused["kind"] == "keygen"
    assert "no ssh-keygen" in refused["error"]
    with pytest.raises(SignatureError, match="Install OpenSSH"):
        raise _error(refused["kind"], refused["error"])
