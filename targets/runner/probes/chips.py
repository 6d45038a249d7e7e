"""Accelerators as the system lists them: NVIDIA GPUs, Edge TPUs on USB and PCIe, and the drivers of Vulkan."""

from __future__ import annotations

import glob
import os
import subprocess
from typing import Dict, List

from .files import text

EDGE_TPUS = {("1a6e", "089a"): "before its firmware is loaded", ("18d1", "9302"): "ready"}
"""Vendor and product on USB of Coral's accelerator (libedgetpu, "Runtime"): its ids change once a runtime has loaded its firmware."""
_PCI_EDGE_TPU = ("0x1ac1", "0x089a")
_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]
_LIMIT_S = 10


def probe(root: str = "/") -> List[Dict[str, str]]:
    """Each as ``{"engine": "", "name": "edge-tpu", "what": "..."}``."""
    return [{"engine": "", "name": name, "what": what} for name, what in [*_usb(root), *_pci(root), *_nvidia(root), *_vulkan(root)]]


def _usb(root: str) -> List[tuple]:
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/bus/usb/devices/*"))):
        ids = tuple((text(folder, name) or "").strip().lower() for name in ("idVendor", "idProduct"))
        if ids in EDGE_TPUS:
            found.append(("edge-tpu", f"Coral Edge TPU on USB, {EDGE_TPUS[ids]}"))
    return found


def _pci(root: str) -> List[tuple]:
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))):
        ids = tuple((text(folder, name) or "").strip().lower() for name in ("vendor", "device"))
        if ids == _PCI_EDGE_TPU:
            driver = "ready" if glob.glob(os.path.join(root, "dev/apex_*")) else "without its driver (gasket-dkms)"
            found.append(("edge-tpu", f"Coral Edge TPU on PCIe, {driver}"))
    return found


def parse_nvidia(output: str) -> List[str]:
    """``name, compute capability, memory, driver`` of each line that nvidia-smi wrote."""
    found = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            found.append(f"{cells[0]}, compute capability {cells[1]}, {cells[2]}, driver {cells[3]}")
    return found


def _nvidia(root: str) -> List[tuple]:
    release = text(root, "etc/nv_tegra_release")
    found = [("nvidia", f"Jetson: {release.splitlines()[0].strip('# ')}")] if release else []
    try:
        done = subprocess.run(_QUERY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return found
    if done.returncode:
        return found
    return found + [("nvidia", what) for what in parse_nvidia(done.stdout.decode("utf-8", "replace"))]


def _vulkan(root: str) -> List[tuple]:
    """Drivers that the Vulkan loader will find, named by their manifests."""
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    places = ("usr/share/vulkan/icd.d/*.json", "etc/vulkan/icd.d/*.json")
    files = named.split(os.pathsep) if named else [path for place in places for path in sorted(glob.glob(os.path.join(root, place)))]
    return [("vulkan", path) for path in files if os.path.exists(path)]
