"""Searches whose trials are trained on a cluster of two nodes: the same trials and the same decisions."""

import json
import os

import pytest

from heft.cluster.connection import RayOptions
from heft.cluster.crew import gathered
from heft.cluster.joined import joined
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.recipe.model import ModelSettings
from heft.runtime.reporter import Reporter
from heft.tune.member import identity_of, require_same
from heft.tune.run import tune
from searches import TWO_ARMS, searched

HERE, ELSEWHERE = RayOptions("auto"), RayOptions("10.1.2.3:6379")
TIMES = {"seconds", "trained_seconds", "trying_seconds", "training_seconds", "prefix_seconds", "before_seconds"}


def facts_of(search):
    """What a search found, times apart: decisions, each trial with its losses to the bit, and the recipes."""
    trials = {}
    for line in map(json.loads, (search.folder / "trials.jsonl").read_text().splitlines()):
        if "trial" in line:
            trials[line["trial"]["key"]] = {key: value for key, value in line["trial"].items() if key not in TIMES}
    recipes = {path.name: path.read_text() for path in sorted(search.folder.glob("arms/*.yaml"))}
    logged = sorted((search.folder / "metrics.jsonl").read_text().splitlines())
    return search.trials.decisions, trials, recipes, (search.folder / "best.yaml").read_text(), logged


def test_a_cluster_that_is_not_there_leaves_no_search_begun(tmp_path):
    recipe = load_recipe("debug", output=tmp_path / "out")
    with pytest.raises(HeftError, match="nobody answers there"):
        tune(recipe, "1e9flop", on_ray=RayOptions("127.0.0.1:1"))
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_search_on_two_nodes_decides_as_in_one_process_to_the_bit(cluster, tmp_path):
    here = searched(tmp_path, "lora, lora+reft", TWO_ARMS, name="here")
    there = searched(tmp_path, "lora, lora+reft", TWO_ARMS, name="there", on_ray=HERE)
    decisions, trials, *rest = facts_of(there)
    assert (decisions, trials) == facts_of(here)[:2]
    assert len(trials) >= 6
    for found, expected in zip(rest, facts_of(here)[2:], strict=True):
        assert found == expected
    assert there.found.findings.winner.arm == here.found.findings.winner.arm


def test_a_budget_in_time_is_refused_with_the_reason(tmp_path):
    recipe = load_recipe("debug", output=tmp_path / "out")
    with pytest.raises(HeftError, match="--budget 5m: how long trials are .* or leave out --ray"):
        tune(recipe, "5m", on_ray=HERE)
    assert not (tmp_path / "out").exists()


def test_a_node_whose_trials_would_come_out_otherwise_is_refused():
    base = load_base(ModelSettings(name="random:tiny-llama", device="cpu", dtype="float32"))
    there = identity_of(base)
    require_same(base, there)
    with pytest.raises(HeftError, match="device cpu, not cuda.*start the search on a node like"):
        require_same(base, there | {"device": "cuda", "torch": "0.0"})


@pytest.mark.long
def test_work_whose_process_is_lost_is_done_by_another_and_an_error_is_raised(cluster, tmp_path):
    warnings = []

    class Doubles:  # sent by value, since the nodes know no module of the tests
        """Ends its process at the first piece of all, errs at a text, and doubles numbers."""

        def __init__(self, mark):
            self._mark = mark

        def work(self, piece):
            if isinstance(piece, str):
                raise HeftError(f"no number: {piece}")
            if not self._mark.exists():
                self._mark.write_text("here")
                os._exit(1)
            return 2 * piece

    class Unborn:
        def __init__(self):
            raise ModuleNotFoundError("No module named 'heft'")

        def work(self, piece):
            return piece

    class Hears(Reporter):
        def warn(self, text):
            warnings.append(text)

    with joined(HERE, Reporter()) as there, gathered(there, Doubles, tmp_path / "mark") as crew:
        assert sorted(crew.done([1, 2, 3], Hears(), "pieces")) == [(0, 2), (1, 4), (2, 6)]
        assert len(warnings) in (1, 2)  # both may be at their first piece when there is no mark yet
        assert "its work is done again" in warnings[0]
        with pytest.raises(HeftError, match="^no number: four$"):
            list(crew.done(["four"], Reporter(), "pieces"))
    with joined(HERE, Reporter()) as there, gathered(there, Unborn) as crew:
        pieces = crew.done([1], Reporter(), "pieces")
        with pytest.raises(HeftError, match="cannot begin on the cluster: ModuleNotFoundError: No module named 'heft'"):
            next(pieces)
    with pytest.raises(HeftError, match="connected to Ray at .* already"), joined(ELSEWHERE, Reporter()):
        pass
