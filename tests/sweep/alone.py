"""A sweep's configurations against runs of their own."""

import json

import pytest
from safetensors.torch import load_file

import heft
from heft.recipe.grid import recipe_of
from tolerance import assert_tensors, of_sgd_weights, of_weights, trained_losses


def values(path, key, **where):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[key] for line in lines if key in line and all(line.get(k) == v for k, v in where.items())]


def assert_as_alone(recipe, learners, folder, numbers=None):
    for learner in learners if numbers is None else [learners[n] for n in numbers]:
        alone = recipe_of(recipe, learner.configuration).model_copy(
            update={"output": str(folder / learner.configuration.name)}
        )
        done = heft.train(alone)
        metrics = done.directory / "metrics.jsonl"
        stage = learner.configuration.stage
        way = stage.learning_rate, learner.taken
        losses = values(metrics, "loss", stage="fine")
        assert learner.losses == trained_losses(losses, *way), learner.configuration
        validation = [loss for _, loss in learner.validation_losses]
        assert validation == trained_losses(values(metrics, "eval_loss", stage="fine"), *way)
        norms = values(folder / "sweep" / "metrics.jsonl", "grad_norm", configuration=learner.configuration.name)
        assert norms == pytest.approx(values(metrics, "grad_norm", stage="fine"), rel=1e-3)
        tensors = load_file(done.directory / "adapter" / "fine" / "adapter_model.safetensors")
        mine = {saved_name(name, learner.configuration.adapter): p for name, p in learner.parameters.items()}
        sgd = stage.optimizer == "sgd"
        assert_tensors(mine, tensors, of_sgd_weights(*way, max(norms)) if sgd else of_weights(*way))


def saved_name(name, adapter):
    return f"base_model.model.{name}".replace(f".{adapter}", "")
