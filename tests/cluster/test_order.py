"""What is sent to another node: everything that a run needs, as plain values."""

import os
import pickle

import pytest

from heft.cluster import joined
from heft.cluster.environment import take_environment
from heft.cluster.jobs import Job, failure_of
from heft.cluster.news import Board, Sending
from heft.cluster.nodes import Need, Node
from heft.cluster.worker import order_of
from heft.errors import HeftError
from heft.recipe.files import load_recipe, recipe_of_values, recipe_values
from heft.recipe.ready import ready_recipes
from heft.runtime.reporter import Reporter, RunNews
from heft.storage.locks import locked, wait_until_free


@pytest.mark.parametrize("name", [each.name for each in ready_recipes() if each.command != "compare"])
def test_a_recipe_comes_back_from_plain_values_as_it_was(name):
    recipe = load_recipe(name)
    assert recipe_of_values(recipe_values(recipe)) == recipe


def test_an_order_has_what_the_libraries_read_from_the_environment_and_no_class_of_heft(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", "/shared/hf")
    monkeypatch.setenv("HEFT_CACHE", "/shared/heft")
    monkeypatch.setenv("HEFT_API_KEY", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    order = order_of(Job("debug, seed 0", load_recipe("debug")), tmp_path, Need(2, 0.0))
    assert order.environment["HF_HOME"] == "/shared/hf"
    assert order.environment["HEFT_CACHE"] == "/shared/heft"
    assert not {"OMP_NUM_THREADS", "HEFT_API_KEY"} & order.environment.keys()
    assert (order.threads, order.gpus) == (2, 0.0)
    assert b"heft.recipe" not in pickle.dumps(order)


def test_a_node_keeps_what_it_has_and_sees_no_gpu_where_none_is_asked_for(monkeypatch):
    monkeypatch.setenv("HF_HOME", "/own")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("HF_TEST_ONLY", raising=False)
    take_environment({"HF_HOME": "/sent", "HF_TEST_ONLY": "1"}, gpus=0.5)
    assert [os.environ[name] for name in ("HF_HOME", "HF_TEST_ONLY", "CUDA_VISIBLE_DEVICES")] == ["/own", "1", "3"]
    monkeypatch.delenv("HF_TEST_ONLY")
    take_environment({}, gpus=0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("need", "room"),
    [
        (Need(4, 0), 8),
        (Need(4, 1), 4),
        (Need(4, 0.5), 8),
        (Need(1, 0.2), 20),
        (Need(1, 0.1), 32),
        (Need(16, 1), 2),
        (Need(64, 0), 0),
    ],
)
def test_a_node_has_room_for_as_many_runs_as_its_cores_and_gpus_allow(need, room):
    assert Node("id", "n", cpus=32.0, gpus=4.0).room(need) == room


def test_an_error_of_hefts_own_has_no_traceback_and_any_other_its_type_and_place():
    assert (failure_of(HeftError("no such data")).words, failure_of(HeftError("x")).traceback) == ("no such data", None)
    try:
        raise KeyError("seed")
    except KeyError as error:
        failure = failure_of(error)
    assert failure.words == "KeyError: 'seed'"
    assert "test_order.py" in failure.traceback


def test_the_board_has_the_latest_news_and_says_everything_once():
    board = Board()
    reporter = Sending("a", "n", board.tell, board.say)
    assert board.take() == ({"a": RunNews("a", "n", "starting")}, [])
    reporter.note("loading")
    reporter.progress("coarse", 10)
    reporter.metrics({"stage": "coarse", "step": 10, "loss": 0.5})
    for step in range(1, 11):
        reporter.step("coarse", step, 10)
    reporter.warn("odd")
    reporter.resumed("coarse", 4)
    latest, said = board.take()
    assert latest == {"a": RunNews("a", "n", "coarse", 10, 10, 0.5)}
    assert said == [("warn", "a: odd"), ("note", "a goes on after step 4 of coarse, on n")]
    assert board.take()[1] == []


def test_a_directory_is_waited_for_as_long_as_another_process_holds_it(tmp_path):
    import time

    started = time.monotonic()
    wait_until_free(tmp_path, 5.0)
    assert time.monotonic() - started < 1.0
    with locked(tmp_path, "run"):
        started = time.monotonic()
        wait_until_free(tmp_path, 0.6)
        assert time.monotonic() - started >= 0.6
    with locked(tmp_path, "run"):  # it can be taken after that
        pass


class _Room:
    """Stands for the module ray: its nodes, each with so many cores."""

    def __init__(self, *cpus):
        self.cpus = cpus

    def nodes(self):
        about = {"Alive": True, "NodeManagerHostname": "n", "NodeManagerAddress": "10.0.0.1"}
        return [{**about, "NodeID": str(n), "Resources": {"CPU": cpus}} for n, cpus in enumerate(self.cpus)]


def test_work_waits_for_a_node_for_some_time_and_not_for_ever(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(joined.time, "monotonic", lambda: now[0])
    ray, reporter = _Room(8.0), Reporter()
    reporter.warn = said.append
    watch = joined.RoomWatch(ray, Need(4, 0))

    def later(seconds):
        now[0] += seconds
        watch.look(reporter)

    later(6)
    ray.cpus = (2.0,)
    later(6)
    assert said == ["no node is left that has 4 CPU cores; waiting 10 minutes for one"]
    ray.cpus = (4.0,)
    later(6)
    ray.cpus = ()
    later(6)
    later(590)
    with pytest.raises(HeftError, match="no node of the cluster has 4 CPU cores any more"):
        later(11)
    assert len(said) == 2
