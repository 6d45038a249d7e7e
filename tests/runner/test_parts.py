"""The runner's statistics, parsers, meters and inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeprune.targets.runner import inputs
from edgeprune.targets.runner.probes import conditions, cpu, device, ram, system, throttle

PI_5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Revision\t: c04170
Serial\t\t: 0000000000000000
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
PIXEL_6 = "".join(
    f"processor\t: {index}\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    for index, part in enumerate(["0xd05"] * 4 + ["0xd0b"] * 2 + ["0xd44"] * 2)
)
X86 = """processor\t: 0
model name\t: AMD  EPYC
cpu MHz\t\t: 2596.120
flags\t\t: fpu sse4_1 avx avx2 fma

processor\t: 1
cpu MHz\t\t: 1500.0
"""


def test_cpuinfo_of_a_raspberry_pi() -> None:
    assert cpu.parse(PI_5) == {
        "cpu": "Cortex-A76",
        "processors": 2,
        "features": ["asimd", "asimdhp", "asimddp"],
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "mhz": None,
    }


def test_cpuinfo_of_mixed_cores() -> None:
    assert cpu.parse(PIXEL_6)["cpu"] == "Cortex-A55 + Cortex-A76 + Cortex-X1"


def test_cpuinfo_of_x86() -> None:
    found = cpu.parse(X86)
    assert (found["cpu"], found["features"], found["mhz"]) == ("AMD EPYC", ["sse4_1", "avx", "avx2", "fma"], 2596.12)


def test_an_unknown_part_is_reported_by_its_number() -> None:
    assert cpu.parse("processor : 0\nCPU implementer : 0x99\nCPU part : 0x123\n")["cpu"] == "ARM 0x99/0x123"


@pytest.mark.parametrize("text", ["", "nothing here", "\0\0\0"])
def test_cpuinfo_without_processors_raises(text: str) -> None:
    with pytest.raises(ValueError, match="no processor"):
        cpu.parse(text)


def test_meminfo() -> None:
    assert ram.parse("MemTotal:        3884360 kB\nMemFree: 1 kB\nHugePages_Total:       2\n") == {
        "MemTotal": 3884360 * 1024,
        "MemFree": 1024,
        "HugePages_Total": 2,
    }
    with pytest.raises(ValueError, match="MemTotal"):
        ram.parse("MemFree: 1 kB")


def test_a_control_group_limits_memory(tmp_path: Path) -> None:
    _tree(tmp_path, {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB", "sys/fs/cgroup/memory.max": "512000"})
    assert ram.probe(str(tmp_path)) == {"memory_bytes": 512000, "available_bytes": 512000}


def test_os_release() -> None:
    assert system.os_name('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == "Debian GNU/Linux 12 (bookworm)"
    assert system.os_name("") == ""


@pytest.mark.parametrize(
    ("text", "expected"), [("throttled=0x0\n", []), ("throttled=0x50005", ["under-voltage", "throttled"]), ("throttled=0xe0000", [])]
)
def test_throttle_bits_of_now(text: str, expected: list[str]) -> None:
    assert throttle.parse_throttled(text) == expected


@pytest.mark.parametrize("text", ["", "VCHI initialization failed", "throttled=0xzz"])
def test_a_strange_answer_of_vcgencmd_raises(text: str) -> None:
    with pytest.raises(ValueError, match="vcgencmd"):
        throttle.parse_throttled(text)


def _tree(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")


def test_conditions_of_a_board(tmp_path: Path) -> None:
    base = "sys/devices/system/cpu/cpu0/cpufreq"
    files = {f"{base}/scaling_governor": "ondemand", f"{base}/scaling_cur_freq": "600000", f"{base}/scaling_max_freq": "1800000"}
    zone = "sys/class/thermal/thermal_zone0"
    _tree(tmp_path, files | {f"{zone}/type": "cpu-thermal", f"{zone}/temp": "83500"})
    found = conditions(str(tmp_path))
    assert (found["governor"], found["clocks_mhz"], found["limit_mhz"]) == ("ondemand", [600.0], 1800.0)
    assert found["temperatures_c"] == {"thermal_zone0 cpu-thermal": 83.5}


def test_a_device_without_any_of_the_files_is_probed_all_the_same(tmp_path: Path) -> None:
    found = device(str(tmp_path))
    assert (found["cpu"], found["board"], found["memory_bytes"]) == ("unknown", "", 0)


def test_seeded_inputs_are_the_same_each_time_and_fit() -> None:
    specs = [
        {"shape": [2, 3], "dtype": "float32"},
        {"shape": [5], "dtype": "int8"},
        {"shape": [4], "dtype": "int64"},
        {"shape": [], "dtype": "float32"},
        {"shape": [3], "dtype": "bool"},
    ]
    first, again, other = inputs.seeded(specs, 7), inputs.seeded(specs, 7), inputs.seeded(specs, 8)
    for index, spec in enumerate(specs):
        assert (list(first[index].shape), str(first[index].dtype)) == (spec["shape"], spec["dtype"])
        np.testing.assert_array_equal(first[index], again[index])
    assert not np.array_equal(first[0], other[0])
    assert set(first[2]) <= {0, 1}
    np.testing.assert_allclose(first[0][0], [1.6905257, -0.46593738, 0.03282016], rtol=1e-6)


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.int8).reshape(2, 3), np.float32(3.5), np.zeros((0, 2)), np.arange(6).reshape(2, 3).T]
)
def test_arrays_travel_as_text(array: np.ndarray) -> None:
    back = inputs.decode(inputs.encode(array))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.asarray(array).dtype
