"""A real Ray cluster of two nodes on this machine, small enough to run beside other tests."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """Give (cluster, its second node)."""
    pytest.importorskip("ray", reason="no Ray here")
    os.environ.setdefault("RAY_worker_niceness", "0")  # tests beside it take all there is
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster

        try:
            cluster = Cluster(initialize_head=True, head_node_args=dict(SMALL))
        except Exception as error:
            pytest.skip(f"Ray does not start here: {error}")
        try:
            second = cluster.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
            cluster.wait_for_nodes()
            yield cluster, second
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]
