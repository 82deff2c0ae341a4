"""The recipes and the rows of the cells that benchmarks/two_stages.py and its neighbours study."""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from heft.recipe.recipe import Recipe


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    imported = []

    def script(name):
        imported.append(name)
        return importlib.import_module(name)

    yield script
    for name in imported:
        del sys.modules[name]


@pytest.fixture
def cells(benchmark):
    return benchmark("two_stages")


def test_every_cell_is_a_recipe_of_the_three_options_that_all_scripts_have(cells, tmp_path):
    options = Namespace(data=tmp_path, tasks=tmp_path, eval_rows=400)
    for data in cells.SETS:
        for rows in cells.BATCH_SIZES:
            recipe = Recipe.model_validate(cells.recipe_of(f"{data}-{rows}", options))
            assert (recipe.task.train_limit, recipe.task.eval_limit) == (rows, 400)
            assert all(stage.batch_size == cells.BATCH_SIZES[rows][0] for stage in recipe.stages.values())


def test_a_cell_may_have_another_model(cells, tmp_path):
    options = Namespace(data=tmp_path, tasks=tmp_path, eval_rows=400)
    recipe = Recipe.model_validate(cells.recipe_of("sst2-100", options, tmp_path / "model"))
    assert recipe.model.name == str((tmp_path / "model").resolve())


def test_rows_of_the_label_data_sets_are_those_of_their_repositories(benchmark, tmp_path, monkeypatch):
    data = benchmark("two_stages_data")
    news = [
        (1 + number % 4, f"Title {number}", f'said "{number}",\nand more') for number in range(data.AG_NEWS_TRAIN + 5)
    ]
    quoted = (",".join(f'"{str(cell).replace(chr(34), chr(34) * 2)}"' for cell in row) for row in news)
    _give(tmp_path, "CharCnn_Keras/data/ag_news_csv/test.csv", "\r\n".join(quoted) + "\r\n")
    for split in ("train", "test"):
        banking = 'text,category\r\n"My card, it\r\nis lost",lost_card\r\nNo intent,\r\n'
        _give(tmp_path, f"task-specific-datasets/banking_data/{split}.csv", banking)
        reviews = "a tab\there\t1\nno\t0\n"
        _give(tmp_path, f"pytorch-sentiment-classification/data/SST2/{split}.tsv", reviews)
    monkeypatch.setattr("sys.argv", ["two_stages_data.py", "--clones", str(tmp_path), "--out", str(tmp_path / "out")])
    data.main()
    rows = {path.stem: list(map(json.loads, path.open())) for path in (tmp_path / "out").iterdir()}
    assert (len(rows["agnews_train"]), len(rows["agnews_test"])) == (data.AG_NEWS_TRAIN, 5)
    given = {
        (f'Title {number}. said "{number}",\nand more', data.AG_NEWS_LABELS[number % 4]) for number in range(len(news))
    }
    assert {(row["text"], row["label"]) for row in rows["agnews_train"] + rows["agnews_test"]} == given
    assert rows["banking77_test"] == [{"text": "My card, it\r\nis lost", "intent": "lost card"}]
    assert sorted((row["text"], row["label"]) for row in rows["sst2_train"]) == [
        ("a tab\there", "positive"),
        ("no", "negative"),
    ]


def _give(folder, path, text):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(text.encode())
