"""Plans applied to models: cut, verify, save, load."""

from edgeprune.surgery.apply import Pruned, apply, flatten_outputs, masked, outputs_of, restore
from edgeprune.surgery.checkpoint import load, save
from edgeprune.surgery.plan import Plan, plan_from_saliency
from edgeprune.surgery.reconstruct import reconstruct

__all__ = [
    "Plan",
    "Pruned",
    "apply",
    "flatten_outputs",
    "load",
    "masked",
    "outputs_of",
    "plan_from_saliency",
    "reconstruct",
    "restore",
    "save",
]
