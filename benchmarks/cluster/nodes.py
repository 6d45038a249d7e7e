"""A real Ray cluster of several nodes, all of them on this machine, for tests and for the table of faults."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from edgeprune.execute.broker import SETTINGS


class Nodes:
    """A head and other nodes, of one core each."""

    def __init__(self, cluster: Any, own: str) -> None:
        self._cluster, self._own = cluster, own
        self.address = f"ray://{cluster.address}"

    def add(self, **environment: str) -> Any:
        """Another node, whose processes have these variables."""
        return self._cluster.add_node(num_cpus=1, object_store_memory=80_000_000, node_ip_address=self._own, env_vars=environment)

    def kill(self, node: Any) -> None:
        """Kill a node with all its processes."""
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Kill what all nodes talk to."""
        self._cluster.head_node.kill_gcs_server()


@contextmanager
def ray_cluster(**environment: str) -> Iterator[Nodes]:
    """A cluster with a head of one core, which is ended afterwards.  Ray must not be imported before: it reads its settings then."""
    with patch.dict(os.environ, SETTINGS | environment), tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        import ray
        from ray.cluster_utils import Cluster

        own = ray.util.get_node_ip_address()
        common = {"num_cpus": 1, "object_store_memory": 80_000_000, "node_ip_address": own}
        cluster = Cluster(initialize_head=True, head_node_args=common | {"include_dashboard": False, "temp_dir": folder})
        try:
            yield Nodes(cluster, own)
        finally:
            cluster.shutdown()
