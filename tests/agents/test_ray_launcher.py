"""A sweep on a real Ray cluster of two nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.runs import SMALL, finish, start

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install -e '.[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture
def address() -> Iterator[str]:
    """Of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


def test_the_jobs_of_a_sweep_run_on_both_nodes(address: str, tmp_path: Path) -> None:
    arguments = ["-m", *SMALL, "seed=0,1", "hydra/launcher=ray_cluster", f"hydra.launcher.address={address}"]
    ended = finish(start(*arguments, cwd=tmp_path))
    assert ended.returncode == 0, ended.stderr
    folders = sorted((tmp_path / "results" / "train").iterdir())
    assert [folder.name.split(",")[0] for folder in folders] == ["llama_steady-s0", "llama_steady-s1"]
    assert all(json.loads((folder / "summary.json").read_text())["steps"] == 2000 for folder in folders)
    nodes = re.findall(r"job \d ran on node (\w+)", ended.stderr)
    assert len(nodes) == len(set(nodes)) == 2
