"""Tasks made of what other libraries hold: a model, its data, and how it is trained; and data as they lie in folders."""

from edgeprune.tasks.box_folder import box_folder
from edgeprune.tasks.detection import detection
from edgeprune.tasks.folders import Data, image_folder, mask_folder, text_table
from edgeprune.tasks.lightning import from_lightning
from edgeprune.tasks.segmentation import segmentation
from edgeprune.tasks.transformers import from_transformers

__all__ = [
    "Data",
    "box_folder",
    "detection",
    "from_lightning",
    "from_transformers",
    "image_folder",
    "mask_folder",
    "segmentation",
    "text_table",
]
