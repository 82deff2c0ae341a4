"""Reporters: every piece of news reaches every listener; a tracker is one class."""

import inspect
from contextlib import contextmanager

import heft
from heft.compare.runs import read_metrics
from heft.results.records import read_records
from heft.results.summary import read_summaries
from heft.run.directory import RunDirectory
from heft.runtime.reporter import Reporter, Reporters
from heft.sweep.run import sweep

NEWS = [name for name, _ in inspect.getmembers(Reporter, inspect.isfunction) if not name.startswith("_")]


class Tracker(Reporter):
    """Remembers metrics, evaluations and resumes, as a tracker would log them."""

    def __init__(self):
        self.logged, self.accuracies, self.records, self.resumes = [], {}, {}, []

    def metrics(self, values):
        self.logged.append(values)

    def evaluated(self, summary, records):
        self.accuracies[summary.name] = summary.accuracy
        self.records[summary.name] = list(records)

    def resumed(self, stage, step):
        self.resumes.append((stage, step))


def recording(heard, number):
    """A reporter that notes each call by the name of its method."""
    methods = {name: lambda self, *args, name=name: heard.append((number, name, args)) for name in NEWS}

    @contextmanager
    def progress(self, *args):
        heard.append((number, "progress", args))
        yield
        heard.append((number, "end of progress", args))

    return type("Recording", (Reporter,), {**methods, "progress": progress})()


def test_reporters_define_every_method_of_a_reporter():
    assert [name for name in NEWS if name not in vars(Reporters)] == []


def test_every_piece_of_news_reaches_every_listener_with_its_arguments():
    heard = []
    both = Reporters([recording(heard, 0), recording(heard, 1)])
    for name in NEWS:
        count = len(inspect.signature(getattr(both, name)).parameters)
        args = tuple(range(count))
        if name == "progress":
            with both.progress(*args):
                pass
        else:
            getattr(both, name)(*args)
        mine = [(number, args) for number, what, args in heard if what == name]
        assert mine == [(0, args), (1, args)], name


def test_a_tracker_hears_the_metrics_and_evaluations_that_the_run_directory_writes(recipe_file, tmp_path):
    path = recipe_file("{coarse: {method: lora, steps: 3}, fine: {method: reft, steps: 2, holdout: 0.2}}")
    tracker = Tracker()
    recipe = heft.load_recipe(path, output=str(tmp_path / "run"))
    run = heft.train(recipe, Reporters([tracker]))
    assert tracker.logged == read_metrics(run.directory)
    assert tracker.accuracies == {summary.name: summary.accuracy for summary in read_summaries(run.directory)}
    assert list(tracker.accuracies) == ["base", "coarse", "fine"]
    for name, records in tracker.records.items():
        assert records == read_records(run.directory / "records" / f"{name}.jsonl")


def test_a_tracker_hears_every_configuration_of_a_sweep_and_its_winner(recipe_file, tmp_path):
    path = recipe_file(
        "{coarse: {method: lora, steps: 2}, fine: {method: reft, positions: l2, steps: 3}}",
        "sweep: {grid: {rank: [1, 2]}, evaluate_winner: true}",
    )
    tracker = Tracker()
    sweep(heft.load_recipe(path, output=str(tmp_path / "sweep")), tracker)
    configurations = {values["configuration"] for values in tracker.logged if "configuration" in values}
    assert len(configurations) == 2
    assert {values["stage"] for values in tracker.logged if "stage" in values} == {"coarse"}
    assert list(tracker.accuracies) == ["fine"]


def test_a_directory_that_does_not_write_keeps_the_figures_alone(tmp_path):
    directory = RunDirectory(tmp_path / "run", writes=False)
    directory.create("name: t", {"format": 1})
    directory.metrics({"loss": 1.0})
    assert not (tmp_path / "run").exists()
