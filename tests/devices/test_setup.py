"""Setting a device up and clearing it, on a real OpenSSH server; the runtimes are small stand-ins that import like the real ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bench import probe
from edgeprune.cli import main
from edgeprune.devices import build_runner, connect, open_runner
from edgeprune.devices.clear import tear_down
from edgeprune.devices.provision import set_up
from edgeprune.devices.pythons import Python, discover
from edgeprune.devices.wheelhouse import wheels_folder
from edgeprune.errors import (
    ConnectionLostError,
    DeviceBusyError,
    DeviceError,
    DeviceFullError,
    NoRuntimeError,
    SetupError,
    TargetError,
)
from edgeprune.testing.sshd import SshServer, find_sshd
from edgeprune.testing.wheels import INTERPRETER, LITERT, make_wheel

pytestmark = pytest.mark.device


def files(home: Path) -> set[str]:
    """What of edgeprune is in a home folder."""
    folders = (home / ".edgeprune", home / ".cache")
    return {str(path.relative_to(home)) for folder in folders for path in folder.rglob("*") if path.is_file()}


def system_python(address: str) -> Python:
    with connect(address) as session:
        return discover(session, ["python3"]).pythons[0]


@pytest.fixture
def bare(client_home: Path) -> Iterator[SshServer]:
    """A server whose user has nothing but the system's Python; this machine keeps the wheels that it needs."""
    if find_sshd() is None:
        pytest.skip("sshd is not installed")
    with SshServer() as server:
        (client_home / ".ssh/known_hosts").write_text(server.host_key)
        (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
        try:
            python = system_python(server.address)
        except NoRuntimeError as error:
            pytest.skip(error.message)
        kept = wheels_folder(python)
        make_wheel(kept, "ai-edge-litert", "9.0", files=LITERT, needs=["array"])
        make_wheel(kept, "tflite-runtime", "2.14.0", files={"tflite_runtime/interpreter.py": INTERPRETER})
        make_wheel(kept, "array", files={"array_/data": "0" * 5_000_000})
        make_wheel(kept, "numpy", "1.26", files={"numpy/__init__.py": ""})
        make_wheel(kept, "torch", "2.0", files={"torch.py": ""})
        yield server


def test_a_bare_device_gets_a_runtime_and_loses_all_of_it_again(bare: SshServer) -> None:
    done = set_up(bare.address, offline=True)
    assert done.runtimes == {"tflite": ("ai-edge-litert", "9.0")}
    assert done.python == f"{bare.home}/.edgeprune/venv/bin/python"
    assert [name.split("-")[0] for name in done.missing] == ["ai_edge_litert", "array"]
    assert sorted(path.name for path in (bare.home / ".edgeprune").iterdir()) == ["venv"]
    with open_runner(bare.address, ["tflite"]) as runner:
        assert runner.python.path == done.python

    listed = tear_down(bare.address, dry_run=True)
    assert {Path(item.path).name for item in listed} >= {"venv", build_runner()[0]}
    assert listed[0].bytes > 5_000_000
    assert (bare.home / ".edgeprune/venv").exists()
    assert tear_down(bare.address) == listed
    assert files(bare.home) == set()
    assert not (bare.home / ".edgeprune").exists()
    assert tear_down(bare.address) == ()


def test_a_second_time_changes_nothing(bare: SshServer) -> None:
    first = set_up(bare.address, offline=True)
    before = {path: path.stat().st_mtime_ns for path in (bare.home / ".edgeprune").rglob("*")}
    again = set_up(bare.address, offline=True)
    assert (again.missing, again.sent_bytes, again.needed_bytes) == ((), 0, 0)
    assert (again.wheels, again.runtimes) == (first.wheels, first.runtimes)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_dry_run_leaves_the_device_as_it_is(bare: SshServer) -> None:
    planned = set_up(bare.address, offline=True, dry_run=True)
    assert [name.split("-")[0] for name in planned.missing] == ["ai_edge_litert", "array"]
    assert planned.needed_bytes > 5_000_000
    assert planned.runtimes == {}
    assert list(bare.home.iterdir()) == []


def test_an_engine_is_added_and_a_runtime_replaced(bare: SshServer) -> None:
    set_up(bare.address, offline=True)
    both = set_up(bare.address, ["torchscript"], offline=True)
    assert both.runtimes == {"tflite": ("ai-edge-litert", "9.0"), "torchscript": ("torch", "2.0")}
    other = set_up(bare.address, runtime="tflite-runtime", offline=True)
    assert other.runtimes == {"tflite": ("tflite-runtime", "2.14.0"), "torchscript": ("torch", "2.0")}


def test_another_python_keeps_the_engines_in_wheels_that_fit_it(bare: SshServer, tmp_path: Path) -> None:
    before = set_up(bare.address, ["torchscript", "tflite"], offline=True)
    manifest = bare.home / ".edgeprune/venv"
    (file,) = [path for path in manifest.rglob("*.json") if '"engines"' in path.read_text()]
    stored = json.loads(file.read_text())
    stored |= {"base": "/usr/bin/another", "engines": stored["engines"] | {"tflite": ["ai-edge-litert==2.1.0"]}}  # as for Python 3.9
    file.write_text(json.dumps(stored))
    after = set_up(bare.address, ["torchscript"], offline=True)
    assert after.runtimes == before.runtimes == {"torchscript": ("torch", "2.0"), "tflite": ("ai-edge-litert", "9.0")}


def test_a_runtime_that_does_not_import_is_reported(bare: SshServer) -> None:
    kept = wheels_folder(system_python(bare.address))
    make_wheel(kept, "ai-edge-litert", "9.1", files={"ai_edge_litert/interpreter.py": "import nowhere_to_be_found\n"})
    with pytest.raises(NoRuntimeError, match=r"cannot be used.*nowhere_to_be_found"):
        set_up(bare.address, offline=True)
    make_wheel(kept, "ai-edge-litert", "9.2", files=LITERT)
    assert set_up(bare.address, offline=True).runtimes == {"tflite": ("ai-edge-litert", "9.2")}


def once(name: str, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """Act once, in the middle of a wheel's upload."""
    left = [act]

    def event(message: dict[str, Any]) -> None:
        if left and message["event"] == "upload" and message["name"].startswith(name):
            left.pop()()

    return event


def test_a_link_that_is_cut_is_opened_again_and_what_arrived_stays(bare: SshServer) -> None:
    with pytest.raises(ConnectionLostError):
        set_up(bare.address, offline=True, retries=0, on_event=once("array", bare.drop_connections))
    assert not (bare.home / ".edgeprune/venv").exists()
    planned = set_up(bare.address, offline=True, dry_run=True)
    assert [name.split("-")[0] for name in planned.missing] == ["array"]
    done = set_up(bare.address, offline=True, retries=1, on_event=once("array", bare.drop_connections))
    assert done.runtimes == {"tflite": ("ai-edge-litert", "9.0")}
    assert sorted(path.name for path in (bare.home / ".edgeprune").iterdir()) == ["venv"]


def test_the_old_environment_stays_until_the_new_one_is_complete(bare: SshServer) -> None:
    old = set_up(bare.address, offline=True)
    with pytest.raises(ConnectionLostError):
        set_up(bare.address, ["torchscript"], offline=True, retries=0, on_event=once("torch", bare.drop_connections))
    assert probe(bare.address).runtimes == old.runtimes


def test_an_environment_of_somebody_else_is_not_touched(bare: SshServer) -> None:
    mine = bare.home / ".edgeprune/venv/mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    bare.own(bare.home)
    with pytest.raises(SetupError, match="was not made by edgeprune"):
        set_up(bare.address, offline=True)
    assert mine.read_text() == "precious"


@pytest.fixture
def small_home(bare: SshServer) -> Iterator[Path]:
    """The home's place for environments on a disk of its own, of 24 MB."""
    place = bare.home / ".edgeprune"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=777", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_too_little_room_is_reported_before_anything_is_sent(bare: SshServer, small_home: Path) -> None:
    (small_home / "full").write_bytes(b"0" * (8 << 20))
    with pytest.raises(DeviceFullError, match=r"has 16\.\d MB free.*ai-edge-litert takes 2\d"):
        set_up(bare.address, offline=True)
    assert [path.name for path in small_home.iterdir()] == ["full"]


def test_a_disk_that_fills_up_meanwhile_is_left_without_remains(bare: SshServer, small_home: Path) -> None:
    def fill() -> None:
        with open(small_home / "full", "wb") as file:
            file.write(b"0" * (21 << 20))

    with pytest.raises(DeviceFullError, match="No space left"):
        set_up(bare.address, offline=True, on_event=once("array", fill))
    assert [path.name for path in small_home.iterdir()] == ["full"]


def test_a_read_only_home_is_named(bare: SshServer) -> None:
    if subprocess.run(["mount", "--bind", str(bare.home), str(bare.home)], capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(bare.home)], check=True)
        with pytest.raises(DeviceFullError, match=r"\.cache/edgeprune.*Read-only"):
            set_up(bare.address, offline=True)
    finally:
        subprocess.run(["umount", str(bare.home)], check=True)


def test_nothing_is_cleared_or_installed_while_somebody_measures(bare: SshServer) -> None:
    set_up(bare.address, offline=True)
    with open_runner(bare.address) as runner:
        with pytest.raises(DeviceBusyError, match="in use by"):
            tear_down(bare.address, lock_timeout_s=0.3, retries=0)
        with pytest.raises(DeviceBusyError):
            set_up(bare.address, ["torchscript"], offline=True, lock_timeout_s=0.3)
        assert Path(runner.folder).exists()
    assert probe(bare.address).runtimes


def test_old_runners_are_removed_when_a_new_one_is_sent(bare: SshServer) -> None:
    cache = bare.home / ".cache/edgeprune"
    cache.mkdir(parents=True)
    for name in ("runner-1111111111111111.pyz", "runner-2222222222222222.pyz", "notes"):
        (cache / name).write_text("import sys; sys.stdin.read()\n")
    bare.own(bare.home)
    with connect(bare.address) as session:
        running = session.start(["python3", f"{cache}/runner-2222222222222222.pyz"])
        session.run(["sh", "-c", "while ! grep -qs runner-2 /proc/[0-9]*/cmdline; do sleep 0.05; done"])
        with open_runner(bare.address):
            assert sorted(path.name for path in cache.glob("[nr]*")) == sorted(["notes", "runner-2222222222222222.pyz", build_runner()[0]])
        running.kill()
    tear_down(bare.address)
    assert files(bare.home) == {".cache/edgeprune/notes"}


def fake_python(folder: Path, description: list[object]) -> Path:
    """A program that describes itself as a Python would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\necho '{json.dumps(description)}'\n")
    path.chmod(0o755)
    return path


def test_a_device_that_no_wheel_fits_says_what_would(bare: SshServer) -> None:
    python = fake_python(bare.base / "musl", ["/usr/bin/python3", [3, 12, 3], "aarch64", "", "/usr/bin/python3"])
    with pytest.raises(NoRuntimeError, match=r"no wheel of tflite.*3\.12\.3, aarch64, unknown C library") as caught:
        set_up(bare.address, python=str(python))
    assert "glibc 2.27" in str(caught.value.remedy)


def test_32_bit_arm_without_the_systems_numpy_says_how_to_get_it(bare: SshServer) -> None:
    text = "#!/bin/sh\ncase $2 in *'import numpy'*) exit 1;; *installer*|*manifest*) exec python3 \"$@\";; esac\necho '%s'\n"
    python = fake_python(bare.base / "armhf", [])
    python.write_text(text % json.dumps([str(python), [3, 11, 2], "armv7l", "glibc 2.36", "/usr/bin/python3"]))
    with pytest.raises(NoRuntimeError, match="numpy has no wheel") as caught:
        set_up(bare.address, python=str(python), offline=True)
    assert caught.value.remedy == "On the device: sudo apt-get install python3-numpy"


@pytest.mark.parametrize("has_python", [True, False])
def test_a_phone_under_termux_is_told_apart(bare: SshServer, has_python: bool) -> None:
    """What Termux answers: ``uname -o`` says Android, and Python's C library has no version."""
    tools = bare.base / "termux"
    fake_python(tools, ["/data/data/com.termux/files/usr/bin/python3", [3, 12, 7], "aarch64", "libc ", ""])
    (tools / "uname").write_text("#!/bin/sh\necho Android\n")
    (tools / "uname").chmod(0o755)
    if not has_python:
        (tools / "python3").write_text("#!/bin/sh\nexit 127\n")
    (bare.base / "config").write_text((bare.base / "config").read_text().replace("SetEnv ", f"SetEnv PATH={tools}:/usr/bin:/bin "))
    bare.stop()
    bare.start()
    for name in ("python", *(f"python3.{minor}" for minor in range(9, 15))):
        (tools / name).symlink_to("python3")
    with pytest.raises(NoRuntimeError, match="Android" if has_python else "has no Python") as caught:
        set_up(bare.address)
    assert "proot-distro" in str(caught.value.remedy)


def test_this_machine_is_not_set_up(client_home: Path) -> None:
    for act in (set_up, tear_down):
        with pytest.raises(TargetError, match="local:"):
            act("local:")


def test_what_cannot_be_removed_is_named(bare: SshServer) -> None:
    if os.getuid() != 0:
        pytest.skip("only root makes a file of another user")
    set_up(bare.address, offline=True)
    site = next((bare.home / ".edgeprune/venv").glob("lib/*/site-packages"))
    os.chown(site, 0, 0)
    with pytest.raises(DeviceError, match=r"still has .*\.edgeprune/venv"):
        tear_down(bare.address)


def test_the_commands(bare: SshServer, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        out, err = capsys.readouterr()
        return code, out, err

    code, out, _ = run("setup", bare.address, "--offline", "--json")
    document = json.loads(out)
    assert (code, document["runtimes"], document["dry_run"]) == (0, {"tflite": ["ai-edge-litert", "9.0"]}, False)
    assert "already there" in run("setup", bare.address, "--offline")[1]
    assert "would remove" in run("teardown", bare.address, "--dry-run")[1]
    code, out, _ = run("teardown", bare.address, "--json")
    assert (code, len(json.loads(out)["removed"]) >= 3) == (0, True)
    assert "has nothing of edgeprune" in run("teardown", bare.address)[1]
    code, out, err = run("setup", bare.address, "--engine", "caffe")
    assert (code, out) == (1, "")
    assert "Known engines" in err
