"""The one-file example and heft train: two programs, one loss."""

import json
from pathlib import Path

import heft
from heft.builtin import byte_tokenizer, tiny_llama
from heft.recipe.files import load_recipe
from tolerance import trained_losses

ROOT = Path(__file__).parents[1]
ROWS, STEPS = 12, 6
STAGES = (
    f"{{coarse: {{method: lora, rank: 8, alpha: 16, learning_rate: 1e-2, steps: {STEPS}, batch_size: {ROWS}}}, "
    f"fine: {{method: reft, rank: 8, positions: l4, learning_rate: 2e-2, steps: {STEPS}, batch_size: {ROWS}}}}}"
)


def test_both_stages_have_the_loss_of_heft_train_at_every_step(recipe_file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    flat = __import__("train_flat")
    task = f"{{name: whereabouts, train_size: {ROWS}, eval_size: {ROWS}}}"
    run = heft.train(load_recipe(recipe_file(STAGES, task=task), output=str(tmp_path / "run")))
    metrics = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    expected = {name: [m["loss"] for m in metrics if m["stage"] == name] for name in ("coarse", "fine")}

    method = flat.Method(tiny_llama(), byte_tokenizer())
    train, held_out = flat.rows("train", ROWS), flat.rows("eval", ROWS)
    accuracies = [method.accuracy(held_out)]
    for seed, (name, add, rate) in enumerate((("coarse", method.add_lora, 1e-2), ("fine", method.add_reft, 2e-2))):
        stage = flat.Stage(learning_rate=rate, steps=STEPS, batch_size=ROWS)
        method.train(add(seed), stage, train, seed)
        assert stage.losses == trained_losses(expected[name], 2e-2, 2 * STEPS), name  # behind the stage before
        accuracies.append(method.accuracy(held_out))
    assert accuracies == [stage.accuracy for stage in run.stages]
    assert expected["fine"][-1] < expected["coarse"][0]
