"""Restoring accuracy after pruning: fine-tuning with distillation, batch-norm recalibration, and scoring."""

from edgeprune.tuning.batchnorm import recalibrate
from edgeprune.tuning.calibration import mean_divergence, outputs_on
from edgeprune.tuning.finetune import TuneResult, finetune
from edgeprune.tuning.initialize import initialized
from edgeprune.tuning.scoring import score

__all__ = ["TuneResult", "finetune", "initialized", "mean_divergence", "outputs_on", "recalibrate", "score"]
