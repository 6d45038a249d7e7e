"""Whether the priors scale with width as phones do: published latencies of narrower MobileNets against predicted ones.

    python -m benchmarks.prior_width           # all profiles with a prior that was fitted; fails where Pixel 1's misses by more than 15 %

The figures are TFLite's on Pixel 1 before XNNPACK, other ones than its prior was fitted to, so that only ratios are compared: the latency
of the narrower network over that of the full one. Other devices' ratios are shown beside it, and are not known.
"""

from __future__ import annotations

import sys

from benchmarks.fit_priors import ANCHORS, predict
from edgeprune.profile import Profile, load

LIMIT = 0.15
CHECKED = "pixel-1"
# network: (its full width's name in fit_priors, milliseconds, the full width's milliseconds)
# MobileNetV2 on Pixel 1: TensorFlow's model zoo (research/slim, mobilenet); MobileNetV1: He et al., "AMC", 2018, table 5
PUBLISHED = {
    "v2 x 0.75": ("v2", 55.8, 73.8),
    "v2 x 0.5": ("v2", 28.7, 73.8),
    "v2 x 0.35": ("v2", 19.7, 73.8),
    "v1 x 0.75": ("v1", 72.5, 123.0),
}


def ratios(profile: Profile) -> dict[str, tuple[float, float]]:
    """By network: (published, predicted) latency relative to its full width."""
    return {name: (ms / full_ms, predict(profile, name) / predict(profile, full)) for name, (full, ms, full_ms) in PUBLISHED.items()}


def main() -> int:
    """Print the table; 1 where the checked profile misses."""
    print("latency relative to full width    " + "  ".join(f"{name:>15}" for name in PUBLISHED))
    print(f"{'Pixel 1, published':34}" + "  ".join(f"{ms / full:15.3f}" for _, ms, full in PUBLISHED.values()))
    for name in sorted(ANCHORS, key=lambda name: name != CHECKED):
        found = ratios(load(name))
        print(f"{name:34}" + "  ".join(f"{got:.3f} ({100 * (got / known - 1):+3.0f} %)".rjust(15) for known, got in found.values()))
    worst = max(abs(got / known - 1) for known, got in ratios(load(CHECKED)).values())
    print(f"{CHECKED}: at most {100 * worst:.1f} % off, {'within' if worst <= LIMIT else 'beyond'} {100 * LIMIT:.0f} %")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
