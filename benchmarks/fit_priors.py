"""Fit the priors of ``profiles/*.toml`` to published latencies, and show published against predicted.

    python benchmarks/fit_priors.py            # what the profiles in the tree predict
    python benchmarks/fit_priors.py --fit      # fit again: the rates to write into the profiles

What is predicted is :class:`edgeprune.cost.prior.PriorTimes`, on the kernels of torchvision's MobileNets at 224x224. Four rates are fitted
(GEMM, depthwise, bytes, overhead), by least squares of log(predicted / published) with a pull towards what the processor's peak suggests:
the published figures are fewer than the parameters. Dense KxK and fully-connected layers run on the micro-kernels of pointwise ones in
XNNPACK (GEMM and IGEMM) and share their rate; a fully-connected layer of one inference is bound by its weights' bytes anyway.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import nn
from torchvision.models import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small

from edgeprune.cost.kernels import Kernel, kernels, macs, moved_bytes
from edgeprune.cost.prior import PriorTimes
from edgeprune.graph import analyze
from edgeprune.profile import Profile, load, names

# XNNPACK README, C++ end-to-end, float32, milliseconds: the Pis multi-threaded, 2022-02 (Pi 4 in 64 bits); Pixel one thread, 2020-03
XNNPACK = {
    "raspberry-pi-4": {"v1": 77.0, "v2": 46.0, "v3-large": 40.0, "v3-small": 15.0},
    "raspberry-pi-3b-plus": {"v1": 114.0, "v2": 79.0, "v3-large": 67.0, "v3-small": 22.0},
    "raspberry-pi-zero-w": {"v1": 3919.0, "v2": 1987.0, "v3-large": 1658.0, "v3-small": 474.0},
    "pixel-1": {"v1": 82.0, "v2": 49.0, "v3-large": 39.0, "v3-small": 12.0},
}
XNNPACK_PIXEL_3A = {"v1": 46.0, "v2": 28.0, "v3-large": 24.0, "v3-small": 8.0}
# ncnn benchmark README, milliseconds with all (big) cores; half precision where the processor has it
NCNN = {
    "raspberry-pi-4": {"v1": 61.0, "v2": 62.0, "v3-large": 48.0},
    "raspberry-pi-5": {"v1": 9.0, "v2": 10.5, "v3-large": 7.4},
    "raspberry-pi-zero-2w": {"v1": 163.0, "v2": 147.0, "v3-large": 119.0},
    "jetson-nano": {"v1": 42.0, "v2": 34.0, "v3-large": 31.0},
    "jetson-orin-nano": {"v1": 7.5, "v2": 6.5, "v3-large": 6.1},
}
# Half precision halves bytes and doubles MACs an instruction: a float32 figure is this many times ncnn's on such a processor.
HALF_PRECISION = {"raspberry-pi-5": 2.0, "jetson-orin-nano": 2.0}
# Measured: one thread of an x86-64 server processor (AMD EPYC, AVX-512), ai-edge-litert 2.3.0, median processor time of 400 inferences.
# On another x86-64 machine MobileNetV2 took 9.0 ms [3P].
X86 = {"v1": 5.4, "v2": 3.5, "v3-large": 3.4, "v3-small": 1.1}
# The same processor cores (Cortex-A53) at another clock: Pi 3B+ 1.4 GHz, Snapdragon W5+ Gen 1 1.7 GHz
W5_CLOCK = 1.7 / 1.4


@dataclass(frozen=True)
class Anchor:
    """Where the fit is pulled to. ``peak``: float32 MAC/s of all threads' vector units; ``bytes_per_s``: a plausible copy rate."""

    peak: float
    bytes_per_s: float


# cores x clock x (128-bit FMA pipes x 4 lanes), from Arm's software optimization guides: A53, A57, A72 one pipe, A76, A78 two, X1 four;
# Pixel 1's Kryo as two pipes [U]; the Pi Zero's ARM1176 has no vector unit: one scalar multiply-accumulate a clock;
# the x86-64 core two AVX-512 pipes at 3.5 GHz [U]
ANCHORS = {
    "raspberry-pi-4": Anchor(4 * 1.5e9 * 4, 4e9),
    "raspberry-pi-3b-plus": Anchor(4 * 1.4e9 * 4, 2e9),
    "raspberry-pi-zero-w": Anchor(1.0e9, 0.3e9),
    "pixel-1": Anchor(2.15e9 * 8, 6e9),
    "wear-os": Anchor(4 * 1.7e9 * 4, 2.4e9),
    "raspberry-pi-5": Anchor(4 * 2.4e9 * 8, 8e9),
    "raspberry-pi-zero-2w": Anchor(4 * 1.0e9 * 4, 1.6e9),
    "jetson-nano": Anchor(4 * 1.43e9 * 4, 6e9),
    "jetson-orin-nano": Anchor(6 * 1.5e9 * 8, 12e9),
    "pixel-6": Anchor(2 * 2.8e9 * 16 + 2 * 2.25e9 * 8, 12e9),
    "generic-linux": Anchor(3.5e9 * 32, 20e9),
}
GEMM_SHARE, DEPTHWISE_SHARE, OVERHEAD_MS = 0.4, 0.2, 0.02  # of the peak; milliseconds of a kernel on a Pi 4
DATA_SPREAD, ANCHOR_SPREAD = 0.05, 0.7  # standard deviations, natural logarithm


def published(name: str) -> dict[str, float]:
    """Latencies (ms) the profile should reproduce: published ones, or estimated from published ones as its file explains."""
    pi4 = XNNPACK["raspberry-pi-4"]
    if name in XNNPACK:
        return XNNPACK[name]
    if name == "wear-os":
        return {model: ms / W5_CLOCK for model, ms in XNNPACK["raspberry-pi-3b-plus"].items()}
    if name in NCNN:
        factor = HALF_PRECISION.get(name, 1.0)
        return {model: factor * pi4[model] * ms / NCNN["raspberry-pi-4"][model] for model, ms in NCNN[name].items()}
    if name == "pixel-6":
        # TFLite, 4 threads, MobileNetV1 on Pixel 4 (A76: 2.84 + 3 x 2.42 GHz): 14.0 ms; half (geometrically) of the peak's gain is believed
        gain = math.sqrt(ANCHORS[name].peak / ((2.84e9 + 3 * 2.42e9) * 8))
        return {model: 14.0 / gain * ms / XNNPACK_PIXEL_3A["v1"] for model, ms in XNNPACK_PIXEL_3A.items()}
    return X86


def mobilenet_v1(multiplier: float = 1.0) -> nn.Module:
    """MobileNetV1 at 224 (Howard et al., 2017), all widths times ``multiplier``; 569 million MACs at 1."""
    layers: list[nn.Module] = []

    def add(source: int, result: int, window: int, stride: int, groups: int = 1) -> None:
        convolution = nn.Conv2d(source, result, window, stride, window // 2, groups=groups, bias=False)
        layers.extend([convolution, nn.BatchNorm2d(result), nn.ReLU6(inplace=True)])

    width = int(32 * multiplier)
    add(3, width, 3, 2)
    for channels, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        add(width, width, 3, stride, width)
        add(width, int(channels * multiplier), 1, 1)
        width = int(channels * multiplier)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


BUILDERS = {
    "v1": mobilenet_v1,
    "v2": mobilenet_v2,
    "v3-large": mobilenet_v3_large,
    "v3-small": mobilenet_v3_small,
    "v1 x 0.75": lambda: mobilenet_v1(0.75),
    **{f"v2 x {width}": (lambda width=width: mobilenet_v2(width_mult=width)) for width in (0.75, 0.5, 0.35)},
}


@cache
def shapes(model: str) -> tuple[tuple[Kernel, float, float], ...]:
    """(kernel, input width, output width) of all kernels of one inference."""
    analysis = analyze(BUILDERS[model]().eval(), (torch.zeros(1, 3, 224, 224),))
    full = {group.name: group.size for group in analysis.groups}
    return tuple((kernel, kernel.in_width.at(full), kernel.out_width.at(full)) for kernel in kernels(analysis))


def predict(profile: Profile, model: str) -> float:
    """Milliseconds of one inference."""
    times = PriorTimes(profile)
    return sum(times.milliseconds(*shape) for shape in shapes(model))


def fit(profile: Profile, target: Mapping[str, float]) -> Profile:
    """``profile`` with a prior that reproduces ``target`` (ms by model), rounded to three digits."""
    anchor = ANCHORS[profile.name]
    slowness = ANCHORS["raspberry-pi-4"].peak / anchor.peak
    start = np.log([GEMM_SHARE * anchor.peak, DEPTHWISE_SHARE * anchor.peak, anchor.bytes_per_s, OVERHEAD_MS * slowness])

    def residuals(logs: np.ndarray) -> np.ndarray:
        fitted = _with_rates(profile, np.exp(logs).tolist())
        misses = [math.log(predict(fitted, model) / ms) / DATA_SPREAD for model, ms in target.items()]
        return np.concatenate([misses, (logs - start) / ANCHOR_SPREAD])

    best = np.exp(least_squares(residuals, start).x)
    return _with_rates(profile, [float(f"{rate:.3g}") for rate in best])


def _with_rates(profile: Profile, rates: Sequence[float]) -> Profile:
    gemm, depthwise, moved, overhead = rates
    kinds = {"conv": gemm, "pointwise": gemm, "depthwise": depthwise, "fully_connected": gemm}
    prior = dataclasses.replace(profile.prior, macs_per_s=kinds, bytes_per_s=moved, kernel_overhead_ms=overhead)
    return dataclasses.replace(profile, prior=prior)


def operations_w(profile: Profile) -> float:
    """Watts that the power model gives to MobileNetV1's MACs and bytes: what ``power.active_w`` must leave out."""
    count = sum(macs(kernel.spec, in_width, out_width) for kernel, in_width, out_width in shapes("v1"))
    moved = sum(moved_bytes(kernel.spec, in_width, out_width) for kernel, in_width, out_width in shapes("v1"))
    picojoules = count * profile.power.energy_per_mac_pj + moved * profile.power.energy_per_byte_pj
    return 1e-9 * picojoules / predict(profile, "v1")


def show(profile: Profile, target: Mapping[str, float]) -> None:
    """Print published against predicted, and the prior."""
    print(f"\n{profile.title}  ({operations_w(profile):.2f} W of MobileNetV1 in MACs and bytes)")
    for model, ms in target.items():
        predicted = predict(profile, model)
        print(f"  {model:10} {ms:8.1f} ms   predicted {predicted:8.1f} ms   {100 * (predicted / ms - 1):+6.1f} %")
    prior = profile.prior
    rates = "  ".join(f"{kind} {rate:.3g}" for kind, rate in prior.macs_per_s.items())
    print(f"  MAC/s: {rates}   B/s: {prior.bytes_per_s:.3g}   overhead: {prior.kernel_overhead_ms:.3g} ms")


def main() -> None:
    """Show every profile, as it is in the tree or fitted again."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="fit again")
    known = [name for name in names() if not load(name).micro]  # of microcontrollers: micro_priors.py
    parser.add_argument("profiles", nargs="*", default=known, help="all unless named")
    arguments = parser.parse_args()
    for name in arguments.profiles:
        profile, target = load(name), published(name)
        show(fit(profile, target) if arguments.fit else profile, target)


if __name__ == "__main__":
    main()
