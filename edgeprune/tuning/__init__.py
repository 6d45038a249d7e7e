"""Restoring accuracy after pruning: fine-tuning with distillation, batch-norm recalibration, and scoring."""

from edgeprune.tuning.batchnorm import recalibrate
from edgeprune.tuning.calibration import mean_divergence, outputs_on
from edgeprune.tuning.finetune import TuneResult, finetune
from edgeprune.tuning.initialize import initialized
from edgeprune.tuning.metrics import Score
from edgeprune.tuning.once import train_once
from edgeprune.tuning.scoring import score, score_with_error

__all__ = [
    "Score",
    "TuneResult",
    "finetune",
    "initialized",
    "mean_divergence",
    "outputs_on",
    "recalibrate",
    "score",
    "score_with_error",
    "train_once",
]
