"""`heft plan` as a person uses it."""

import json

from commands import heft
from tiny_recipe import write_recipe

STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}, "
    "fine: {method: reft, rank: 2, positions: l2, epochs: 3, batch_size: 4}}"
)


def test_the_table_says_what_the_json_says_and_nothing_is_written(tmp_path):
    path = write_recipe(tmp_path, STAGES)
    shown = heft("plan", path, "--no-probe", cwd=tmp_path)
    machine = heft("plan", path, "--no-probe", "--json", cwd=tmp_path)
    for done in (shown, machine):
        assert (done.returncode, done.stderr) == (0, "")
    stages = json.loads(machine.stdout)["stages"]
    assert [(stage["name"], stage["steps"]) for stage in stages] == [("coarse", 2), ("fine", 18)]
    words = [line.replace("│", " ").split() for line in shown.stdout.splitlines()]
    for stage in stages:
        assert [stage["name"], str(stage["steps"]), f"{stage['trainable_parameters']:,}"] in [w[:3] for w in words]
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_key_is_one_message_with_the_nearest_key(tmp_path):
    path = write_recipe(tmp_path, STAGES)
    done = heft("plan", path, "--set", "stages.fine.positons=l4", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stages.fine.positons: unknown key; did you mean 'positions'?" in done.stderr
    assert done.stderr.count("\n") == 1
