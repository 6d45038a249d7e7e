"""Releases: what was pruned and measured, bundled, signed, and checked again before anything is done with it.

``build`` makes a bundle of runs, ``sign`` adds a signature, ``verify`` says whether it may be trusted.
"""

from edgeprune.release.bundle.file import NAMESPACE, SUFFIX, Bundle
from edgeprune.release.bundle.manifest import Compatibility, Evidence, File, Gate, Health, Manifest, Runtime, Variant

__all__ = ["NAMESPACE", "SUFFIX", "Bundle", "Compatibility", "Evidence", "File", "Gate", "Health", "Manifest", "Runtime", "Variant"]
