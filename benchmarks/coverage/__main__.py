"""``python -m benchmarks.coverage``."""

import signal
import sys

from benchmarks.coverage.main import main

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
sys.exit(main())
