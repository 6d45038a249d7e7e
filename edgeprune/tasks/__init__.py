"""Tasks made of what other libraries hold: a model, its data, and how it is trained."""

from edgeprune.tasks.detection import detection
from edgeprune.tasks.lightning import from_lightning
from edgeprune.tasks.segmentation import segmentation
from edgeprune.tasks.transformers import from_transformers

__all__ = ["detection", "from_lightning", "from_transformers", "segmentation"]
