"""Which wheels a device gets: the table, the tags, what packages need, and how they are unpacked there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from edgeprune.devices.pythons import Python
from edgeprune.devices.wheelhouse import collect, unpacked_bytes, wheels_folder
from edgeprune.devices.wheels import advice, find_wheel, platforms
from edgeprune.errors import InputError, NoRuntimeError, SetupError
from edgeprune.resources import resource
from edgeprune.testing.wheels import make_wheel

PI = Python("/usr/bin/python3", (3, 10, 2), "aarch64", "glibc 2.35", "/usr/bin/python3.10")


def python(version: tuple[int, ...], arch: str, libc: str) -> Python:
    return Python("/usr/bin/python3", version, arch, libc)


@pytest.mark.parametrize(
    ("version", "arch", "libc", "expected"),
    [
        ((3, 11, 2), "aarch64", "glibc 2.36", ("ai-edge-litert",)),
        ((3, 13, 5), "aarch64", "glibc 2.41", ("ai-edge-litert",)),
        ((3, 9, 2), "aarch64", "glibc 2.31", ("ai-edge-litert==2.1.0",)),
        ((3, 9, 2), "aarch64", "glibc 2.24", ("tflite-runtime==2.13.0", "numpy<2")),
        ((3, 11, 2), "armv7l", "glibc 2.36", ("tflite-runtime==2.14.0",)),
        ((3, 9, 2), "armv7l", "glibc 2.31", ("tflite-runtime==2.13.0",)),
    ],
)
def test_the_wheel_that_fits(version: tuple[int, ...], arch: str, libc: str, expected: tuple[str, ...]) -> None:
    assert find_wheel("tflite", python(version, arch, libc)).requirements == expected


def test_32_bit_arm_takes_numpy_from_its_system() -> None:
    assert find_wheel("tflite", python((3, 11, 2), "armv7l", "glibc 2.36")).system == ("numpy",)
    assert find_wheel("tflite", python((3, 11, 2), "aarch64", "glibc 2.36")).system == ()


@pytest.mark.parametrize(
    ("version", "arch", "libc"),
    [
        ((3, 13, 0), "armv7l", "glibc 2.41"),  # no numpy 1, no litert
        ((3, 11, 2), "armv7l", "glibc 2.31"),  # needs 2.34 there
        ((3, 12, 0), "x86_64", ""),  # musl
        ((3, 11, 0), "aarch64", "libc "),  # Android
        ((3, 11, 0), "riscv64", "glibc 2.41"),
        ((3, 15, 0), "aarch64", "glibc 2.41"),
    ],
)
def test_where_none_fits_the_device_and_what_would_fit_are_reported(version: tuple[int, ...], arch: str, libc: str) -> None:
    with pytest.raises(NoRuntimeError, match=rf"no wheel of tflite.*Python {version[0]}\.{version[1]}.*{arch}") as caught:
        find_wheel("tflite", python(version, arch, libc))
    assert "ai-edge-litert (Python 3.10 to 3.14, x86_64 or aarch64, glibc 2.27)" in str(caught.value.remedy)


def test_a_runtime_may_be_chosen() -> None:
    pi = python((3, 11, 2), "aarch64", "glibc 2.36")
    assert find_wheel("tflite", pi, "tflite-runtime").requirements == ("tflite-runtime==2.14.0", "numpy<2")
    with pytest.raises(NoRuntimeError, match="no wheel of tflite-runtime"):
        find_wheel("tflite", python((3, 12, 0), "aarch64", "glibc 2.36"), "tflite-runtime")
    with pytest.raises(InputError, match="'torch' is not a runtime for tflite"):
        find_wheel("tflite", pi, "torch")
    with pytest.raises(NoRuntimeError, match="no wheel contains the engine native") as by_hand:
        find_wheel("native", pi)
    assert "benchmark_model" in str(by_hand.value.remedy)
    with pytest.raises(InputError, match="unknown engine 'caffe'") as caught:
        find_wheel("caffe", pi)
    assert "tflite, torchscript, onnx" in str(caught.value.remedy)


def test_platform_tags_go_from_the_devices_own_library_down() -> None:
    tags = list(platforms(python((3, 11, 0), "aarch64", "glibc 2.28")))
    assert tags[0] == "manylinux_2_28_aarch64"
    assert "manylinux_2_29_aarch64" not in tags
    assert tags.index("manylinux_2_17_aarch64") + 1 == tags.index("manylinux2014_aarch64")
    assert tags[-1] == "linux_aarch64"


def test_the_advice_is_a_command() -> None:
    assert advice("ssh://pi", PI, ["tflite"]).startswith("edgeprune setup ssh://pi --engine tflite ")
    assert advice("local:", PI, ["tflite", "torchscript"]) == "/usr/bin/python3 -m pip install ai-edge-litert torch numpy"
    assert "What would fit" in advice("ssh://pi", python((3, 8, 1), "aarch64", "glibc 2.31"), ["tflite"])


# what packages need


@pytest.fixture
def kept(client_home: Path) -> Path:
    """The folder of wheels for :data:`PI`."""
    return wheels_folder(PI)


def names(requirements: list[str]) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in collect(requirements, PI, offline=True))


def test_markers_are_the_devices_not_this_machines(kept: Path) -> None:
    assert sys.version_info >= (3, 11)
    needs = ["old-python; python_version < '3.11'", "intel; platform_machine == 'x86_64'", "arm; platform_machine == 'aarch64'"]
    make_wheel(kept, "top", needs=[*needs, "extra; extra == 'more'", "windows; sys_platform == 'win32'"])
    for name in ("old-python", "intel", "arm", "extra", "windows"):
        make_wheel(kept, name)
    assert names(["top"]) == ["arm", "old_python", "top"]


def test_extras_bring_what_they_need(kept: Path) -> None:
    make_wheel(kept, "top", needs=["kit[blas]", "helper"])
    make_wheel(kept, "helper", needs=["kit[fft]; platform_machine == 'aarch64'", "kit[rand]; platform_machine == 'x86_64'"])
    make_wheel(kept, "kit", needs=[f"kit-{name}; extra == '{name}'" for name in ("blas", "fft", "rand")])
    for name in ("blas", "fft", "rand"):
        make_wheel(kept, f"kit-{name}")
    assert names(["top"]) == ["helper", "kit", "kit_blas", "kit_fft", "top"]


def test_a_build_for_gpus_is_refused_where_there_is_none(kept: Path) -> None:
    make_wheel(kept, "torch", "2.0", needs=["cuda-toolkit[cudart]; platform_system == 'Linux'"])
    make_wheel(kept, "cuda-toolkit", needs=["nvidia-cudart; extra == 'cudart'"])
    make_wheel(kept, "nvidia-cudart")
    assert len(collect(["torch"], PI, offline=True)) == 3
    with pytest.raises(NoRuntimeError, match=r"torch-2\.0.*built for NVIDIA") as caught:
        collect(["torch"], PI, offline=True, nvidia=False)
    assert "--index" in str(caught.value.remedy)
    make_wheel(kept, "torch", "2.0+cpu")  # as an index of such wheels has it
    assert [path.name for path in collect(["torch"], PI, offline=True, nvidia=False)] == ["torch-2.0+cpu-py3-none-any.whl"]


def test_another_index_is_asked_too(kept: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "index/torch", "torch", "2.0+cpu")
    (tmp_path / "index/torch/index.html").write_text(f'<a href="{quote(wheel.name)}">{wheel.name}</a>')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
        found = collect(["torch"], PI, index=(tmp_path / "index").as_uri())
    assert [path.name for path in found] == [wheel.name]


def test_limits_from_different_packages_hold_together(kept: Path) -> None:
    make_wheel(kept, "runtime", needs=["array>=1.20", "helper"])
    make_wheel(kept, "helper", needs=["array>=1.22"])
    for version in ("1.21", "1.26", "2.0"):
        make_wheel(kept, "array", version)
    assert [path.name for path in collect(["runtime", "array<2"], PI, offline=True)][1].startswith("array-1.26")


def test_what_the_device_has_is_not_fetched(kept: Path) -> None:
    make_wheel(kept, "runtime", needs=["numpy>=1.23", "helper"])
    make_wheel(kept, "helper", needs=["numpy"])
    found = collect(["runtime"], PI, offline=True, provided=["numpy"])
    assert [path.name.partition("-")[0] for path in found] == ["runtime", "helper"]


def test_the_devices_platform_decides(kept: Path) -> None:
    make_wheel(kept, "native", "3.0", tag="cp310-cp310-manylinux_2_39_aarch64")  # for a newer C library
    make_wheel(kept, "native", "2.0", tag="cp310-cp310-manylinux_2_28_x86_64")
    make_wheel(kept, "native", "1.0", tag="cp310-cp310-manylinux_2_28_aarch64")
    make_wheel(kept, "native", "0.9", tag="cp310-abi3-manylinux2014_aarch64")
    assert [path.name for path in collect(["native"], PI, offline=True)] == ["native-1.0-cp310-cp310-manylinux_2_28_aarch64.whl"]


def test_contradictions_and_what_is_not_kept_are_reported(kept: Path) -> None:
    make_wheel(kept, "runtime", needs=["array>=2"])
    make_wheel(kept, "array", "1.26")
    for requirements in (["runtime", "array<2"], ["nowhere"]):
        with pytest.raises(SetupError, match="not among the wheels kept here") as caught:
            collect(requirements, PI, offline=True)
        assert "--offline" in str(caught.value.remedy)


def test_nothing_half_is_kept(kept: Path) -> None:
    make_wheel(kept, "top")
    with pytest.raises(SetupError):
        collect(["top", "nowhere"], PI, offline=True)
    assert [path.name for path in kept.iterdir()] == ["top-1.0-py3-none-any.whl"]


# unpacking, by the program that runs on the device


def install(command: str, place: Path, **arguments: object) -> dict:
    source = resource("targets", "installer.py").read_text(encoding="utf-8")
    argv = [sys.executable, "-c", source, command, json.dumps({"place": str(place), **arguments})]
    return json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)


def manifest(*wheels: Path, **more: object) -> dict:
    return {"base": "b", "version": [3], "engines": {}, "system": [], "wheels": {wheel.name: "digest" for wheel in wheels}, **more}


def test_an_environment_is_made_without_pip_and_venv(tmp_path: Path) -> None:
    place = tmp_path / "env"
    files = {"tool/__init__.py": "x = 7\n", "+tool/run": "#!/bin/sh\n", "tool-1.0.data/purelib/pure.py": "y = 8\n"}
    wheel = make_wheel(tmp_path, "tool", files=files | {"tool-1.0.data/scripts/tool": "#!python\n"})
    assert install("state", place)["exists"] is False
    assert install("begin", place, manifest=manifest(wheel)) == {"wheels": {}}
    install("add", place, wheel=str(wheel), digest="digest")
    assert not wheel.exists()
    assert not place.exists()
    made = install("finish", place)["python"]
    code = "import sys, tool, pure; from importlib import metadata; print(tool.x, pure.y, metadata.version('tool'), sys.prefix)"
    done = subprocess.run([made, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["7", "8", "1.0", str(place)]
    assert subprocess.run([made, "-c", "import numpy"], capture_output=True).returncode == 1  # nothing of the base's own packages
    site = next(place.glob("lib/*/site-packages"))
    assert os.access(site / "tool/run", os.X_OK)
    assert not list(place.rglob("scripts"))
    assert install("state", place)["manifest"] == manifest(wheel)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["env"]


def test_an_interrupted_one_continues_only_if_it_is_the_same(tmp_path: Path) -> None:
    place = tmp_path / "env"
    one, two = make_wheel(tmp_path, "one"), make_wheel(tmp_path, "two")
    install("begin", place, manifest=manifest(one, two))
    install("add", place, wheel=str(one), digest="digest")
    assert install("state", place)["unfinished"]["wheels"] == {one.name: "digest"}
    assert install("begin", place, manifest=manifest(one, two)) == {"wheels": {one.name: "digest"}}
    assert install("begin", place, manifest=manifest(one, two, version=[4])) == {"wheels": {}}


@pytest.mark.parametrize("path", ["../outside.py", "/tmp/outside.py", "a/../../outside.py"])
def test_a_wheel_cannot_write_elsewhere(tmp_path: Path, path: str) -> None:
    wheel = make_wheel(tmp_path, "evil", files={path: "x"})
    install("begin", tmp_path / "env", manifest=manifest(wheel))
    assert "unsafe path" in install("add", tmp_path / "env", wheel=str(wheel), digest="d")["error"]
    assert not list(tmp_path.rglob("outside.py"))


def test_a_damaged_wheel_and_a_place_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "cut")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    install("begin", tmp_path / "env", manifest=manifest(wheel))
    assert install("add", tmp_path / "env", wheel=str(wheel), digest="d")["full"] is False
    (tmp_path / "file").write_text("")
    assert "Not a directory" in install("begin", tmp_path / "file/env", manifest=manifest())["error"]


def test_what_a_wheel_takes(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "zeros", files={"zeros.py": "0" * 100_000})
    assert wheel.stat().st_size < 10_000
    assert 100_000 < unpacked_bytes(wheel) < 101_000
