"""What the search must beat: published ways to choose widths, behind one interface, for comparisons.  See ``benchmarks/search.py``."""

from edgeprune.search.baselines.context import Allocator, SearchContext
from edgeprune.search.baselines.halp import halp
from edgeprune.search.baselines.magnitude import global_magnitude
from edgeprune.search.baselines.netadapt import netadapt
from edgeprune.search.baselines.uniform import uniform

BASELINES: dict[str, Allocator] = {"uniform": uniform, "global": global_magnitude, "halp": halp, "netadapt": netadapt}
"""By name."""

__all__ = ["BASELINES", "Allocator", "SearchContext", "global_magnitude", "halp", "netadapt", "uniform"]
