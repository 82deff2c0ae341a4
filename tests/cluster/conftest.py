"""A Ray cluster of two nodes on this machine, and studies of the tiny model that run there."""

import os
from pathlib import Path

import pytest

from heft.runtime.reporter import Reporter
from tiny_recipe import TASK, write_recipe

LORA = "{coarse: {method: lora, rank: 2, steps: 150, batch_size: 4}}"
REFT = "{fine: {method: reft, rank: 2, positions: l2, steps: 150, batch_size: 4}}"
OFTEN = "checkpoint: {every_steps: 5}"
ARMS = "arms: {lora: {recipe: lora.yaml}, reft: {recipe: reft.yaml}}\n"


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self):
        self.notes, self.warnings, self.most = [], [], 0

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def runs(self, going, done, total):
        self.most = max(self.most, len(going))


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a core each; this process is connected to the first."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'heft[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_timeout_ms": 2000}
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**small, "_system_config": quick})
    # before there is another node, which can be killed then
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    made.second = made.add_node(**small)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def study_in(folder: Path, arms: str = ARMS, name: str = "out") -> Path:
    """A study of two long runs with many checkpoints; returns its path. It writes to `name`."""
    for file, stages in (("lora.yaml", LORA), ("reft.yaml", REFT)):
        write_recipe(folder, stages, OFTEN, file=file, task=TASK)
    path = folder / f"{name}.yaml"
    path.write_text(f"name: s\noutput: {(folder / name).as_posix()}\n{arms}")
    return path
