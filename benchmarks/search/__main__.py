"""``python -m benchmarks.search``."""

import sys

from benchmarks.search.main import main
from edgeprune.errors import EdgepruneError

try:
    sys.exit(main())
except EdgepruneError as error:
    sys.exit(f"search: {error}")
