"""Fixtures that several test files share: a client's home, a real OpenSSH server, tiny models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ctypes.util import find_library
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from board.fixtures import adb_server, board, link, own_sshd, ready, shared_board, small_disk  # noqa: F401

from edgeprune.bench import BenchOptions
from edgeprune.testing.models import crashing_tflite, dense_tflite
from edgeprune.testing.sshd import SshServer, find_sshd


@pytest.fixture(scope="session")
def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)


@pytest.fixture
def dense_model(tmp_path: Path, weights: np.ndarray) -> Path:
    """A TFLite file that multiplies (1, 256) by ``weights``."""
    path = tmp_path / "dense.tflite"
    path.write_bytes(dense_tflite(weights))
    return path


@pytest.fixture
def crashing_model(tmp_path: Path) -> Path:
    """A TFLite file that kills its process by SIGSEGV."""
    path = tmp_path / "crash.tflite"
    path.write_bytes(crashing_tflite())
    return path


@pytest.fixture
def client_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for this process, with an empty ``.ssh``."""
    home = tmp_path / "client"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "EDGEPRUNE_HISTORY", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def shared_sshd() -> Iterator[SshServer]:
    """One server for all tests that do not harm it."""
    if find_sshd() is None:
        pytest.skip("sshd is not installed")
    with SshServer() as server:
        server.make_python()
        yield server


@pytest.fixture
def sshd(shared_sshd: SshServer, client_home: Path) -> Iterator[SshServer]:
    """The server, known and reachable by ``ssh://box`` and by its address.  It must be running and empty afterwards."""
    ssh = client_home / ".ssh"
    (ssh / "known_hosts").write_text(shared_sshd.host_key)
    host = f"Host box\n  HostName 127.0.0.1\n  Port {shared_sshd.port}\n  User {shared_sshd.user}\n\n"
    (ssh / "config").write_text(f"{host}Host *\n  IdentityFile {shared_sshd.key}\n")
    yield shared_sshd
    assert not list(shared_sshd.home.glob(".cache/edgeprune/session-*/*.part"))


SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


@pytest.fixture
def swiftshader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Vulkan device in software, of Debian's chromium: the GPU of tests that measure on one."""
    if not SWIFTSHADER.exists() or find_library("vulkan") is None:
        pytest.skip("there is no software GPU (apt-get install chromium libvulkan1)")
    monkeypatch.setenv("VK_DRIVER_FILES", str(SWIFTSHADER))


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search measure with as few processes and as little warming up as its verdicts need."""
    quick = partial(BenchOptions, rounds=3, warmup_s=0.2, min_time_s=0.3, max_time_s=2.0)
    monkeypatch.setattr("edgeprune.search.measure.opening.BenchOptions", quick)


@pytest.fixture(autouse=True)
def _without_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """``EDGEPRUNE_TEST_CONVERTER=off`` leaves out what would start the converter to TFLite: ``make matrix`` does."""
    if os.environ.get("EDGEPRUNE_TEST_CONVERTER") == "off":
        skip = "EDGEPRUNE_TEST_CONVERTER is off"
        monkeypatch.setattr("edgeprune.export.converter.Converter.warm", lambda _: pytest.skip(skip))


def pytest_configure(config: pytest.Config) -> None:
    """A process that only hands tests to others traces as it likes."""
    from less_traced import trace_less

    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        trace_less()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses a real server, the board or a bad link is marked ``device``."""
    for item in items:
        if not {"sshd", "shared_board", "link"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.device)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from side_by_side import Groups

    return Groups(config, log)


REFERENCE_MODELS = Path(os.environ.get("EDGEPRUNE_DATA", "/nowhere")) / "tflite"


@pytest.fixture
def reference_models() -> Path:
    """MLPerf Tiny's reference models, for what is published of them; skips when ``EDGEPRUNE_DATA`` does not hold them."""
    if not REFERENCE_MODELS.is_dir():
        pytest.skip("EDGEPRUNE_DATA holds no tflite folder")
    return REFERENCE_MODELS


@pytest.fixture(scope="session")
def stand_in_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models built by the tests, under the names of MLPerf Tiny's."""
    from stand_in_models import make_models

    return make_models(tmp_path_factory.mktemp("models") / "tflite")


@pytest.fixture(params=["stand-ins", *(["MLPerf Tiny"] if REFERENCE_MODELS.is_dir() else [])])
def models_folder(request: pytest.FixtureRequest) -> Path:
    """Models that no exporter of this project made: the tests' own, and MLPerf Tiny's where ``EDGEPRUNE_DATA`` holds them."""
    return request.getfixturevalue("stand_in_models") if request.param == "stand-ins" else REFERENCE_MODELS
