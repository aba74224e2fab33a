"""The trials of a sweep on a Ray cluster with two nodes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sweep import TRIALS, Bench

import sweep_run
from fineprune.errors import TrainingError

ray = pytest.importorskip("ray", reason="the sweep extra is not installed: pip install 'fineprune[sweep]'")

from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """Two nodes, each for one trial at a time."""
    patient = {"worker_niceness": 0}  # else everything else on a busy machine comes first
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": patient})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.usefixtures("nodes")
def test_trials_run_on_both_nodes_and_survive_a_lost_worker(tmp_path: Path) -> None:
    alone, cluster = (Bench(tmp_path / name) for name in ("alone", "cluster"))
    alone.run("--seeds", "2").check()
    for trial, other in (TRIALS[:2], TRIALS[1::-1]):  # each waits for the other: they need a node each
        cluster.tell(trial, "wait", cluster.output / other / "half")
    cluster.tell(TRIALS[2], "exit", 5)
    cluster.tell(TRIALS[3], "lost")  # with Ray's worker, as when a node goes down
    outcome = cluster.run("--seeds", "2", "--engine", "ray")
    assert list(outcome.failed) == [TRIALS[2]]
    assert outcome.failed[TRIALS[2]].endswith("this is why")
    raylets = {(cluster.control / f"{trial}.starts").read_text().split()[1] for trial in TRIALS[:2]}
    assert len(raylets) == 2
    assert "None" not in raylets
    cluster.run("--seeds", "2", "--engine", "ray").check()
    assert cluster.tables() == alone.tables()
    assert [len(cluster.starts(trial)) for trial in TRIALS] == [1, 1, 2, 2]


@pytest.mark.usefixtures("nodes")
def test_ctrl_c_stops_the_trials_of_every_node(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.tell(TRIALS[0], "wait", bench.output / TRIALS[2] / "half")
    bench.tell(TRIALS[2], "wait", bench.control / "never")

    def interrupted(line: str) -> None:
        if TRIALS[0] in line:
            raise KeyboardInterrupt

    with pytest.raises(TrainingError, match="same command runs the others"):
        sweep_run.run(bench.arguments("--engine", "ray"), bench.control, interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(bench.starts(TRIALS[2])[0], 0)
