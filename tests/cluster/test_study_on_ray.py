"""Studies on a Ray cluster of two nodes: the same as in one process, whatever happens to the nodes."""

import json
import sys

import pytest

from cluster.conftest import ARMS, OFTEN, REFT, Listener, study_in
from heft.cluster import on_ray
from heft.cluster.connection import RayOptions
from heft.cluster.on_ray import OnRay
from heft.errors import HeftError
from heft.study.files import load_study
from heft.study.runner import run_study
from heft.tasks import allow_import_from
from tiny_recipe import write_recipe

pytestmark = pytest.mark.long  # a cluster takes ten seconds to start, and its workers as long to import torch
HERE = RayOptions("auto", cpus_per_run=1)
MEASURED = {"seconds", "peak_bytes", "evaluation_seconds"}
"""Figures that no two runs share."""


def run_on_ray(path, listener=None, **options):
    listener = listener or Listener()
    return run_study(load_study(path), listener, OnRay(RayOptions("auto", **options) if options else HERE)), listener


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in MEASURED}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def results_of(folder):
    """Everything that a study found: its comparison, and every run's adapters, records and metrics to the byte."""
    found = {"comparison": without_times(json.loads((folder / "comparison.json").read_text()))}
    for kind in ("adapter/*/*.safetensors", "records/*.jsonl"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"*/*/{kind}"))}
    return found


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory):
    """The results of the study of `study_in`, run one after the other here."""
    path = study_in(tmp_path_factory.mktemp("alone"))
    return results_of(run_study(load_study(path)).directory)


def test_a_study_on_two_nodes_has_the_results_of_one_process_to_the_bit(cluster, tmp_path, in_one_process):
    result, listener = run_on_ray(study_in(tmp_path))
    assert results_of(result.directory) == in_one_process
    assert len(in_one_process) == 7  # the comparison, two adapters and twice two evaluations
    assert result.failed == {}
    assert listener.most == 2  # both nodes at once
    assert "2 nodes; a run gets 1 CPU core: room for 2 at once" in listener.notes
    assert sum(note.startswith("finished, ") for note in listener.notes) == 2
    assert not list(result.directory.glob(".seen*"))

    again, listener = run_on_ray(study_in(tmp_path))
    assert "2 of 2 runs are finished already" in listener.notes
    assert not any(note.startswith("finished, ") for note in listener.notes)


def test_ctrl_c_leaves_checkpoints_from_which_the_same_command_goes_on(cluster, tmp_path, in_one_process):
    class Interrupts(Listener):
        def runs(self, going, done, total):
            if any(news.done > 20 for news in going if news.total == 150):
                raise KeyboardInterrupt

    listener, path = Interrupts(), study_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_on_ray(path, listener)
    assert "stopping 2 runs at the next checkpoint" in listener.notes
    assert list((tmp_path / "out").glob("*/seed-0/checkpoints/*"))
    assert not (tmp_path / "out" / "comparison.json").exists()
    result, listener = run_on_ray(path)
    assert any("goes on after step" in note for note in listener.notes)
    assert results_of(result.directory) == in_one_process


def test_no_more_runs_go_on_at_once_than_are_asked_for(cluster, tmp_path):
    short = "{recipe: reft.yaml, set: {stages.fine.steps: 2}}"
    _, listener = run_on_ray(study_in(tmp_path, f"arms: {{a: {short}, b: {short}}}\n"), at_once=1)
    assert listener.most == 1


def test_storage_that_a_node_does_not_see_is_found_before_any_run(cluster, tmp_path, monkeypatch):
    from heft.cluster import nodes

    def look(folder, *rest, real=nodes.look):
        return real(f"{folder}-of-another-disk", *rest)

    monkeypatch.setattr(nodes, "_SECONDS_TO_BE_SEEN", 0.1)
    monkeypatch.setattr(nodes, "look", look)
    with pytest.raises(HeftError, match=r"does not see .*out-of-another-disk.*such as NFS\), or give another"):
        run_on_ray(study_in(tmp_path))
    assert not list((tmp_path / "out").rglob("*seen*"))
    assert not list((tmp_path / "out").glob("*/seed-0"))


def test_a_run_that_asks_for_more_than_any_node_has_is_refused_at_once(cluster, tmp_path):
    for options, wanted in (({"cpus_per_run": 64}, "64 CPU cores"), ({"gpus_per_run": 1.0}, "1 GPU and 1 CPU core")):
        with pytest.raises(HeftError, match=f"asks for {wanted}, and no node of the cluster has that .*0 GPUs"):
            run_on_ray(study_in(tmp_path), **options)
    assert not (tmp_path / "out").exists()


def test_budgets_in_seconds_are_refused_with_the_reason(cluster, tmp_path):
    with pytest.raises(HeftError, match="lora, reft: a budget in seconds is measured on this machine"):
        run_on_ray(study_in(tmp_path, f"budget: {{seconds: 3}}\n{ARMS}"))
    assert not (tmp_path / "out").exists()


OWN = """\
import os

from heft.tasks import Task, TaskSettings


class Settings(TaskSettings):
    pass


class Burning(Task):
    settings_type = Settings

    def example(self, row, where):
        raise NotImplementedError

    def rows(self, split):
        raise RuntimeError("the disk is on fire")


class Dying(Burning):
    def rows(self, split):
        os._exit(1)
"""


def test_errors_and_lost_processes_of_some_runs_are_said_and_the_others_are_finished(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "MOST_LOSSES", 1)
    (tmp_path / "own_disk.py").write_text(OWN)
    allow_import_from(tmp_path)
    for name in ("Burning", "Dying"):
        write_recipe(tmp_path, REFT, OFTEN, file=f"{name}.yaml", task=f"{{name: 'own_disk:{name}'}}")
    short = "{recipe: reft.yaml, set: {stages.fine.steps: 2}}"
    arms = f"arms: {{good: {short}, burning: {{recipe: Burning.yaml}}, dying: {{recipe: Dying.yaml}}}}\n"
    try:
        result, listener = run_on_ray(study_in(tmp_path, arms))
    finally:
        sys.modules.pop("own_disk", None)
    assert [arm.name for arm in result.comparison.arms] == ["good"]
    assert result.failed["burning", 0] == "RuntimeError: the disk is on fire"
    assert any("own_disk.py" in note and "in rows" in note for note in listener.notes)  # where it happened
    assert "was lost 2 times" in result.failed["dying", 0]
    assert sum("dying, seed 0 was lost" in text for text in listener.warnings) == 1


def first_node_taken():
    """An actor that holds the core of the node to which this process is connected."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Holds:
        def here(self):
            return True

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    holder = ray.remote(Holds).options(num_cpus=1, scheduling_strategy=here).remote()
    assert ray.get(holder.here.remote())
    return holder


def test_a_run_whose_node_dies_goes_on_from_its_checkpoint_on_the_other_node(cluster, tmp_path, in_one_process):
    import ray

    holder = first_node_taken()  # so that the first run is on the second node

    class Kills(Listener):
        killed = False

        def runs(self, going, done, total):
            if not self.killed and any(news.total == 150 and news.done > 20 for news in going):
                self.killed = True
                cluster.remove_node(cluster.second, allow_graceful=False)
                ray.kill(holder)

    listener = Kills()
    try:
        result, _ = run_on_ray(study_in(tmp_path), listener)
    finally:
        cluster.second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    assert listener.killed
    (lost,) = [text for text in listener.warnings if "was lost" in text]
    name = lost.split(" was lost")[0]
    (resumed,) = [note for note in listener.notes if "goes on after step" in note]
    assert resumed.startswith(f"{name} goes on after step ")
    assert int(resumed.split("after step ")[1].split()[0]) >= 15
    assert result.failed == {}
    assert results_of(result.directory) == in_one_process
