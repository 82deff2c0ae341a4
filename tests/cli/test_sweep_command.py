"""`heft sweep` as a person uses it."""

import csv
import json

import pytest

from commands import heft
from tiny_recipe import write_recipe

STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}, "
    "fine: {method: reft, positions: l2, steps: 2, batch_size: 4}}"
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A recipe, the directory of its sweep, and the finished command."""
    folder = tmp_path_factory.mktemp("sweep")
    path = write_recipe(folder, STAGES, "sweep: {holdout: 0.25, grid: {rank: [2, 3], learning_rate: [1e-4, 3e-2]}}")
    return path, folder / "run", heft("sweep", path, "--output", folder / "run")


def test_the_table_ranks_all_configurations_and_ends_with_the_winners_command(swept):
    _, directory, done = swept
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    results = json.loads((directory / "results.json").read_text())["results"]
    rows = [line for line in lines if line and line[0] in {result["name"] for result in results}]
    assert [line[0] for line in rows] == [result["name"] for result in results]
    for line, result in zip(rows, results, strict=True):
        assert line[1:5] == [*map(str, result["values"].values()), f"{100 * result['expected_errors']:.1f}", "%"]
        assert line[-1] == f"{result['loss']:.4f}"
    assert f"winner: heft train {directory / 'winner.yaml'}" in done.stdout
    assert (directory / "adapter" / "heft.json").is_file()
    for place, row in enumerate(csv.DictReader((directory / "results.csv").open())):
        assert (row["place"], row["rank"]) == (str(place + 1), str(results[place]["values"]["rank"]))


def test_a_directory_that_holds_a_sweep_is_refused_and_left_alone(swept):
    path, directory, _ = swept
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    done = heft("sweep", path, "--output", directory)
    assert (done.returncode, done.stdout) == (2, "")
    advice = "--overwrite replaces it, --output DIR writes elsewhere"
    assert done.stderr == f"heft: output {directory} already holds a sweep: {advice}\n"
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{grid: {rank: [2]}, holdot: 0.1}", "sweep.holdot: unknown key; did you mean 'holdout'?"),
        ("{grid: {rnk: [2, 4]}}", "sweep.grid.rnk: unknown key; did you mean 'rank'?"),
        ("null", "has no `sweep`; add one, such as "),
    ],
)
def test_a_wrong_recipe_is_one_message_at_its_line_and_leaves_nothing(tmp_path, sweep, message):
    path = write_recipe(tmp_path, STAGES, f"sweep: {sweep}")
    done = heft("sweep", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
