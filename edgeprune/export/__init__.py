"""A model written to files that devices run, each compared with the PyTorch model before it gets its name.

``export`` writes; ``start_export`` lets the conversion overlap other work; ``warm`` starts the converter ahead of need;
``formats.names`` lists the formats; ``calibration_of`` takes from a task what ``tflite-int8`` needs. A new format is one file that calls
``formats.register`` and an import here.
"""

from edgeprune.export import formats
from edgeprune.export.calibration import calibration_of
from edgeprune.export.converter import warm
from edgeprune.export.export import TIME_LIMIT_S, export, start_export
from edgeprune.export.metadata import read_metadata
from edgeprune.export.options import ExportOptions

__all__ = ["TIME_LIMIT_S", "ExportOptions", "calibration_of", "export", "formats", "read_metadata", "start_export", "warm"]
