"""Model files of other tools as PyTorch modules that train."""

from edgeprune.importers.opening import load

__all__ = ["load"]
