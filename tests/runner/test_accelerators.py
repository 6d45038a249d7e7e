"""What the runner makes of accelerators' names, logs and lists; the real ones that this machine has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeprune.targets.runner.accelerators import AcceleratorMissing, captured, delegation, split
from edgeprune.targets.runner.engines import ENGINES
from edgeprune.targets.runner.engines.compiled import parse_counts
from edgeprune.targets.runner.engines.tflite import delegated
from edgeprune.targets.runner.probes import chips

from edgeprune.tflite.builder import Builder

# What LiteRT 2.3.0 wrote of a model of TANH, L2_NORMALIZATION and LOGISTIC.
PARTLY = """I0000 00:00:1796094284.393886   22973 delegate_webgpu.cc:759] # of threads to compile kernels = 0
ERROR: Following operations are not supported by GPU delegate:
L2_NORMALIZATION: Operation is not supported.
1 operations will run on the GPU, and the remaining 2 operations will run on the CPU.
I0000 00:00:1796094284.393963   22973 delegate_kernel.cc:984] Initializing WebGPU-based API from graph.
"""


def test_options_follow_the_name() -> None:
    assert split("gpu") == ("gpu", {})
    assert split("/usr/lib/libx.so?device=usb,threads=2") == ("/usr/lib/libx.so", {"device": "usb", "threads": "2"})
    with pytest.raises(AcceleratorMissing, match="'usb' of libx"):
        split("libx.so?usb")


def test_the_log_tells_what_the_gpu_left() -> None:
    assert parse_counts(PARTLY) == (1, 2, ["L2_NORMALIZATION"])
    assert parse_counts("INFO: all is well") is None


def test_shares() -> None:
    assert delegation(3, ["ADD"]) == {"share": 0.75, "operators": 4, "left": ["ADD"]}
    assert delegation(0, [])["share"] == 1.0


def operator(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict:
    return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}


def test_what_a_delegate_took_is_what_lies_between_its_ends() -> None:
    chain = [operator(0, "CONV_2D", [0, 10], [1]), operator(1, "ADD", [1, 1], [2]), operator(2, "SOFTMAX", [2], [3])]
    assert delegated(chain) == delegation(0, ["CONV_2D", "ADD", "SOFTMAX"])
    assert delegated([*chain, operator(3, "DELEGATE", [0], [3])])["share"] == 1
    assert delegated([*chain, operator(3, "DELEGATE", [0], [2])]) == delegation(2, ["SOFTMAX"])
    assert delegated([*chain, operator(3, "DELEGATE", [1], [2]), operator(4, "DELEGATE", [2], [3])]) == delegation(2, ["CONV_2D"])


@pytest.fixture(scope="session")
def negating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delegate that computes NEG."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("delegate") / "libnegating.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(Path(__file__).parent / "negating_delegate.c")], check=True)
    return path


def negated_twice() -> bytes:
    """-tanh(-x) of (1, 8)."""
    graph = Builder()
    first, second, third, last = (graph.tensor((1, 8)) for _ in range(4))
    graph.op("NEG", [first], second)
    graph.op("TANH", [second], third)
    graph.op("NEG", [third], last)
    return graph.build([first], [last])


@pytest.mark.parametrize(("options", "taken"), [("", delegation(2, ["TANH"])), ("?idle=1", delegation(0, ["NEG", "TANH", "NEG"]))])
def test_a_real_delegate_takes_what_it_can(negating: Path, options: str, taken: dict) -> None:
    engine = ENGINES.get("tflite")()
    engine.use(f"{negating}{options}")
    assert engine.adapter.startswith("sha256-")
    model = engine.load(negated_twice(), 1, None)
    values = np.linspace(-2, 2, 8, dtype=np.float32)[None]
    model.set_inputs([values])
    model.run()
    np.testing.assert_allclose(model.outputs()[0], np.tanh(values), atol=1e-6)
    assert model.delegation() == taken


def test_a_log_is_read_and_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with captured() as log:
        os.write(2, b"said by a library\n")
    assert log.text == "said by a library\n"
    assert capfd.readouterr().err == log.text


def write(root: Path, **files: str) -> None:
    for path, text in files.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_chips_that_the_system_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chips, "_QUERY", ["/no/nvidia-smi"])
    assert chips.probe(str(tmp_path)) == []
    usb, pci = tmp_path / "sys/bus/usb/devices/1-1", tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    write(usb, idVendor="18d1\n", idProduct="9302\n")
    write(pci, vendor="0x1ac1\n", device="0x089a\n")
    write(tmp_path / "usr/share/vulkan/icd.d", **{"broadcom_icd.json": "{}"})
    write(tmp_path / "etc", nv_tegra_release="# R36 (release), REVISION: 4.3\n")
    found = [(item["name"], item["what"]) for item in chips.probe(str(tmp_path))]
    assert found == [
        ("edge-tpu", "Coral Edge TPU on USB, ready"),
        ("edge-tpu", "Coral Edge TPU on PCIe, without its driver (gasket-dkms)"),
        ("nvidia", "Jetson: R36 (release), REVISION: 4.3"),
        ("vulkan", str(tmp_path / "usr/share/vulkan/icd.d/broadcom_icd.json")),
    ]


def test_nvidia_smi_is_read_line_by_line() -> None:
    lines = "NVIDIA H200, 9.0, 143771 MiB, 570.86.15\nNo devices were found\n"
    assert chips.parse_nvidia(lines) == ["NVIDIA H200, compute capability 9.0, 143771 MiB, driver 570.86.15"]


@pytest.mark.parametrize(("engine", "name"), [("tflite", "tensorrt"), ("onnx", "qnn"), ("executorch", "gpu"), ("torchscript", "cuda:77")])
def test_what_is_not_there_is_refused_with_what_is(engine: str, name: str) -> None:
    with pytest.raises(AcceleratorMissing, match=rf"no accelerator '{name}' here; there are: cpu"):
        ENGINES.get(engine)().use(name)


def test_a_delegate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AcceleratorMissing, match=r"the delegate .*/libnone.so cannot be loaded"):
        ENGINES.get("tflite")().use(f"{tmp_path}/libnone.so")


def test_the_processor_needs_nothing() -> None:
    for name in ENGINES.names():
        engine = ENGINES.get(name)()
        engine.use("cpu")
        assert (engine.accelerator, engine.adapter) == ("cpu", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_torchscript_on_cuda(tmp_path: Path) -> None:
    layer = torch.nn.Linear(8, 4).eval()
    path = tmp_path / "layer.pt"
    torch.jit.trace(layer, torch.zeros(1, 8)).save(str(path))
    engine = ENGINES.get("torchscript")()
    engine.use("cuda")
    model = engine.load(str(path), 1, [{"shape": [1, 8], "dtype": "float32"}])
    values = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    model.set_inputs([values])
    model.run()
    np.testing.assert_allclose(model.outputs()[0], layer(torch.from_numpy(values)).detach().numpy(), atol=1e-3)
    assert model.memory()[0] > 0
    assert model.delegation()["share"] == 1
