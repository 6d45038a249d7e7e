"""Keywords (Speech Commands, 10 words and unknown ones): a depthwise-separable CNN on log-mel spectrograms, trained here in minutes.

The data and what is heard are those of ``_keywords.py``; the layers those of ``fsdd.py``, after Zhang et al., "Hello Edge:
Keyword Spotting on Microcontrollers", 2017.
"""

from __future__ import annotations

from _keywords import LABELS, make_task
from _trained import trained_task
from fsdd import convolution, separable
from torch import nn

from edgeprune.task import Task


def network() -> nn.Sequential:
    """Spectrograms of 1 x 32 x 49 (bands, frames) in, scores of 11 classes out; 7 million multiplications."""
    return nn.Sequential(
        convolution(1, 64, 5, stride=2),
        separable(64, 64),
        separable(64, 128, stride=2),
        separable(128, 128),
        separable(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, len(LABELS)),
    )


LESSON = {"epochs": 16, "learning_rate": 0.1}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.05, distillation=0.5)
