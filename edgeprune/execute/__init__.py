"""Where pure work runs: in this process, in processes of this machine, or on a Ray cluster.

A piece of work is a function of picklable arguments: it opens no device and writes no run directory.  The same arguments give the same
result wherever it runs.
"""

from edgeprune.execute.choose import executor_of, parse_workers
from edgeprune.execute.executor import Executor, Send, Shared, ignore
from edgeprune.execute.inprocess import InProcess
from edgeprune.execute.processes import Processes

__all__ = ["Executor", "InProcess", "Processes", "Send", "Shared", "executor_of", "ignore", "parse_workers"]
