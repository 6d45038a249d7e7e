"""Fit the priors of microcontrollers' profiles to MLPerf Tiny's published latencies, and show published against predicted.

    python benchmarks/micro_priors.py            # what the profiles in the tree predict
    python benchmarks/micro_priors.py --fit      # fit again: the rates to write into the profiles

The kernels are those of MLPerf Tiny's four reference models, read from the folder that EDGEPRUNE_DATA names.  Fitted are the rates of
dense KxK, pointwise and depthwise convolutions and of fully-connected layers, and of bytes moved, by least squares of
log(predicted / published), with a pull of every rate towards a share of the clock: four figures cannot tell five rates apart.  An overhead
of each kernel cannot be told from them at all, and is taken as none.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from edgeprune.micro import MicroGraph, read_graph
from edgeprune.micro.latency import predict_ms
from edgeprune.profile import KINDS, MICRO, Prior, Profile, load, names

MODELS = {"anomaly": "ad01_int8", "image": "pretrainedResnet_quant", "keyword": "kws_ref_model", "visual wake": "vww_96_int8"}

# MLPerf Tiny, closed division, milliseconds
PUBLISHED = {
    "nrf5340": {"anomaly": 6.27, "image": 316.0, "keyword": 76.1, "visual wake": 232.0},  # microTVM, v1.0
    "stm32l4r5": {"anomaly": 5.26, "image": 165.0, "keyword": 43.2, "visual wake": 88.9},  # ST, v1.2
    "stm32h7a3": {"anomaly": 1.23, "image": 40.8, "keyword": 11.3, "visual wake": 23.8},  # ST, v1.2
}
# MACs and bytes a clock cycle: what dual 16-bit multiply-accumulate instructions reach with loads between them
ANCHORS = {"conv": 0.5, "pointwise": 0.5, "depthwise": 0.25, "fully_connected": 0.5, "bytes": 0.25}
DATA_SPREAD, ANCHOR_SPREAD = 0.03, 0.5  # standard deviations, natural logarithm


@cache
def graph(model: str) -> MicroGraph:
    """One of the reference models."""
    path = Path(os.environ.get("EDGEPRUNE_DATA", "/nowhere"), "tflite", f"{MODELS[model]}.tflite")
    return read_graph(path.read_bytes(), path.name)


def fit(profile: Profile, target: Mapping[str, float]) -> Profile:
    """``profile`` with a prior that reproduces ``target`` (ms by model), rounded to three digits."""
    assert profile.cpu.clock_hz is not None
    start = np.log([share * profile.cpu.clock_hz for share in ANCHORS.values()])

    def residuals(logs: np.ndarray) -> np.ndarray:
        fitted = _with_rates(profile, np.exp(logs).tolist())
        misses = [math.log(predict_ms(graph(model), fitted) / ms) / DATA_SPREAD for model, ms in target.items()]
        return np.concatenate([misses, (logs - start) / ANCHOR_SPREAD])

    best = np.exp(least_squares(residuals, start).x)
    return _with_rates(profile, [float(f"{rate:.3g}") for rate in best])


def _with_rates(profile: Profile, rates: Sequence[float]) -> Profile:
    *macs_per_s, moved = rates
    step = profile.prior.channel_step if profile.prior else 1
    prior = Prior(profile.prior.runtime if profile.prior else "", 1, dict(zip(KINDS, macs_per_s, strict=True)), moved, 0.0, step)
    return dataclasses.replace(profile, prior=prior)


def show(profile: Profile, target: Mapping[str, float]) -> None:
    """Print published against predicted, and the prior."""
    assert profile.prior is not None
    print(f"\n{profile.title}: {profile.prior.runtime}")
    for model, ms in target.items():
        predicted = predict_ms(graph(model), profile)
        print(f"  {model:12} {ms:8.2f} ms   predicted {predicted:8.2f} ms   {100 * (predicted / ms - 1):+6.1f} %")
    rates = "  ".join(f"{kind} {rate:.3g}" for kind, rate in profile.prior.macs_per_s.items())
    print(f"  MAC/s: {rates}   B/s: {profile.prior.bytes_per_s:.3g}")


def main() -> None:
    """Show every profile, as it is in the tree or fitted again."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="fit again")
    arguments = parser.parse_args()
    micro = [profile for profile in map(load, names()) if profile.runtime == MICRO]
    for profile in micro:
        if profile.name not in PUBLISHED:
            print(f"\n{profile.title}: its profile knows no published latency")
        elif not Path(os.environ.get("EDGEPRUNE_DATA", "/nowhere"), "tflite").is_dir():
            print(f"\n{profile.title}: skipped, for EDGEPRUNE_DATA holds no tflite folder")
        else:
            target = PUBLISHED[profile.name]
            show(fit(profile, target) if arguments.fit else profile, target)


if __name__ == "__main__":
    main()
