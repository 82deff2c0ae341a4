"""Trackers by name: what each is told, read back from what it wrote."""

import json
import os
import signal
import sys
import types
from importlib.util import find_spec

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import heft
from heft.compare.runs import read_metrics
from heft.recipe.files import load_recipe
from heft.results.summary import read_summaries
from heft.runtime import signals
from heft.runtime.reporter import Reporter
from heft.runtime.trackers import flat_config
from heft.sweep.run import sweep

STAGES = "{coarse: {method: lora, rank: 2, steps: 3}, fine: {method: reft, rank: 2, steps: 2, holdout: 0.2}}"


class Warned(Reporter):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


class InterruptAt(Reporter):
    def __init__(self, what, done):
        self.at = (what, done)

    def step(self, what, done, total):
        if (what, done) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def recipe(recipe_file, tmp_path):
    def made(*names, stages=STAGES, rest=""):
        text = f"trackers: [{', '.join(names)}]\n{rest}"
        return load_recipe(recipe_file(stages, text), output=tmp_path / "run")

    return made


def expected_values(directory) -> dict[tuple[str, int], float]:
    """(tag, step) → value, by definition: metrics.jsonl and summary.json, steps counted over all stages."""
    found, offsets, offset = {}, {}, 0
    for summary in read_summaries(directory):
        offsets[summary.name] = offset
        offset += summary.steps
        found["evaluation/accuracy", offset] = summary.accuracy
        found["evaluation/interval_low", offset] = summary.interval[0]
    for values in read_metrics(directory):
        for key in ("loss", "learning_rate", "grad_norm", "eval_loss"):
            if key in values:
                found[f"{values['stage']}/{key}", offsets[values["stage"]] + values["step"]] = values[key]
    return found


def in_tensorboard(directory) -> dict[tuple[str, int], list[float]]:
    events = EventAccumulator(str(directory / "trackers" / "tensorboard"))
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            found.setdefault((tag, event.step), []).append(event.value)
    return found


def test_tensorboard_has_every_loss_rate_norm_and_evaluation_once_at_its_step(recipe):
    directory = heft.train(recipe("tensorboard")).directory
    there, expected = in_tensorboard(directory), expected_values(directory)
    assert {"coarse/loss", "coarse/learning_rate", "coarse/grad_norm", "fine/eval_loss", "evaluation/accuracy"} <= {
        tag for tag, _ in there
    }
    for key, value in expected.items():
        assert there[key] == [pytest.approx(value, rel=1e-6)], key  # events are float32
    hparams = list((directory / "trackers" / "tensorboard").glob("*/hparams.yml"))
    assert len(hparams) == 1
    assert "stages.coarse.rank: 2" in hparams[0].read_text()


@pytest.mark.parametrize("every", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("at", [("coarse", 2), ("fine", 1), ("evaluation of coarse", 10), ("evaluation of fine", 10)])
def test_a_resumed_run_goes_on_in_the_same_events_and_repeats_no_step(recipe, at, every):
    made = recipe("tensorboard", rest=f"checkpoint: {{every_steps: {every}}}")
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        heft.train(made, InterruptAt(*at))
    directory = heft.train(made, resume=True).directory
    there = in_tensorboard(directory)
    for key, value in expected_values(directory).items():
        assert there[key] == [pytest.approx(value, rel=1e-6)], key
    assert len(list((directory / "trackers" / "tensorboard").glob("*/hparams.yml"))) == 1


def test_a_sweep_logs_each_configuration(recipe):
    made = recipe("tensorboard", rest="sweep: {grid: {rank: [1, 2]}}")
    tags = {tag for tag, _ in in_tensorboard(sweep(made).directory)}
    assert {"coarse/loss", "c00/loss", "c01/loss", "c01/eval_loss"} <= tags


def test_a_missing_package_is_an_error_before_training_with_the_command(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("heft.runtime.trackers.find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(heft.HeftError, match="trackers: wandb not installed: pip install wandb"):
        heft.train(recipe("tensorboard", "wandb"))
    assert not (tmp_path / "run").exists()


def test_none_is_the_default_and_writes_nothing(recipe_file, tmp_path):
    stages = "{fine: {method: reft, rank: 2, steps: 1}}"
    run = heft.train(load_recipe(recipe_file(stages), output=tmp_path / "run"))
    assert not (run.directory / "trackers").exists()
    swept = recipe_file(stages, "sweep: {grid: {rank: [1, 2]}}")
    assert not (sweep(load_recipe(swept, output=tmp_path / "sweep")).directory / "trackers").exists()


def test_an_unknown_tracker_is_named(recipe):
    with pytest.raises(heft.HeftError, match="trackers.*tensorboard, trackio, wandb, mlflow"):
        recipe("tensorbord")


def test_other_trackers_are_no_reason_not_to_resume(recipe):
    stages = "{coarse: {method: lora, rank: 2, steps: 2}}"
    made = recipe("tensorboard", stages=stages, rest="checkpoint: {every_steps: 1}")
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        heft.train(made, InterruptAt("coarse", 1))
    assert heft.train(made.model_copy(update={"trackers": []}), resume=True).stages[-1].name == "coarse"


def test_the_configuration_has_every_setting_by_its_path(recipe):
    config = flat_config(recipe("tensorboard"))
    assert config["stages.coarse.rank"] == 2
    assert config["trackers"] == '["tensorboard"]'
    assert config["output"].endswith("run")
    assert config["model.revision"] == "null"
    assert all(isinstance(value, bool | int | float | str) for value in config.values())


class FakeRun:
    """wandb's Run, as far as accelerate uses it: `log(data, step=...)`, `finish()`."""

    def __init__(self, told):
        self.told = told

    def log(self, data, step=None, commit=None):
        if self.told.get("down"):
            raise ConnectionError("the network is away")
        self.told["logged"].append((data, step))

    def finish(self, exit_code=None, quiet=None):
        self.told["finished"] = True


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb, with the signatures of wandb 0.31: `init` as keyword arguments, `config.update`."""
    told = {"logged": [], "config": {}}
    module = types.ModuleType("wandb")

    def init(project=None, dir=None, id=None, name=None, config=None, mode=None, resume=None, settings=None):
        if told.get("refuses"):
            raise RuntimeError("not logged in")
        told["init"] = {"project": project, "id": id, "name": name, "resume": resume}
        return FakeRun(told)

    module.init = init
    module.config = types.SimpleNamespace(update=lambda values, allow_val_change=None: told["config"].update(values))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("heft.runtime.trackers._is_installed", lambda name: True)
    return told


def test_weights_and_biases_is_told_the_same_and_goes_on_in_the_same_run(wandb, recipe):
    made = recipe("wandb", rest="checkpoint: {every_steps: 1}")
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        heft.train(made, InterruptAt("fine", 1))
    first, config = wandb["init"], wandb["config"]
    assert first["project"] == "heft"
    assert config["stages.fine.rank"] == 2
    directory = heft.train(made, resume=True).directory
    assert wandb["init"] == first
    assert json.loads((directory / "trackers" / "ids.json").read_text()) == {"wandb": first["id"]}
    assert wandb["finished"]
    told = {(tag, step): value for data, step in wandb["logged"] for tag, value in data.items()}
    for key, value in expected_values(directory).items():
        assert told[key] == value
    steps = [step for _, step in wandb["logged"]]
    assert steps == sorted(steps)


def test_a_tracker_that_cannot_start_is_an_error_before_anything_is_written(wandb, recipe, tmp_path):
    wandb["refuses"] = True
    with pytest.raises(heft.HeftError, match="tracker wandb cannot be started: RuntimeError: not logged in"):
        heft.train(recipe("wandb"))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_fails_on_the_way_costs_a_warning_and_no_training(wandb, recipe):
    wandb["down"], heard = True, Warned()
    run = heft.train(recipe("wandb", "tensorboard"), heard)
    assert heard.warnings == [
        "tracker wandb failed and hears nothing more of this run (ConnectionError: the network is away)"
    ]
    assert [stage.name for stage in run.stages] == ["base", "coarse", "fine"]
    assert in_tensorboard(run.directory)


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_has_the_same_in_a_store_of_files(recipe, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the smallest that mlflow-skinny has
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    monkeypatch.chdir(tmp_path)
    made = recipe("mlflow", rest="checkpoint: {every_steps: 1}")
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        heft.train(made, InterruptAt("coarse", 2))
    directory = heft.train(made, resume=True).directory
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("heft").experiment_id])
    assert run.data.params["stages.coarse.rank"] == "2"
    for (tag, step), value in expected_values(directory).items():
        assert {m.value for m in client.get_metric_history(run.info.run_id, tag) if m.step == step} == {value}


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_the_same_in_its_local_store(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    import trackio.sqlite_storage as storage

    directory = heft.train(recipe("trackio")).directory
    name = json.loads((directory / "trackers" / "ids.json").read_text())["trackio"]
    logged = storage.SQLiteStorage.get_logs("heft", name)
    told = {(tag, row["step"]): row[tag] for row in logged for tag in row if "/" in tag}
    for key, value in expected_values(directory).items():
        assert told[key] == pytest.approx(value)


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_itself_takes_it_offline(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    heard = Warned()
    heft.train(recipe("wandb"), heard)
    assert heard.warnings == []
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
