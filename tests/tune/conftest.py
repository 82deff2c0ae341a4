"""A search on the tiny model, and the bench of one."""

import pytest

from heft.data.rows import read_data
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.runtime.reporter import Reporter
from heft.tune.bench import Bench
from heft.tune.kept import keep_prefixes
from heft.tune.logged import Kept
from heft.tune.prices import Counter
from heft.tune.weights import WeightsInMemory
from searches import LACKS, searched
from tiny_recipe import write_recipe


@pytest.fixture(scope="session")
def two_arms(tmp_path_factory):
    """A search of LoRA, and of LoRA, then ReFT."""
    return searched(tmp_path_factory.mktemp("two"), "lora, lora+reft")


@pytest.fixture
def bench_of(tmp_path):
    """Makes a bench with or without the base's prefixes, on a model of its own; with these rows, if they are given."""

    def make(keeps: bool, rows=None) -> Bench:
        recipe = load_recipe(write_recipe(tmp_path, "{s: {method: reft}}"))
        base = load_base(recipe.model)
        rows = read_data(recipe, Reporter()).train if rows is None else rows
        kept = keep_prefixes(base.model, rows, LACKS, base.tokenizer.pad_token_id) if keeps else None
        counter = Counter(recipe, rows, 4096, keeps_prefixes=keeps)
        return Bench(recipe, base, rows, 0.25, counter, Kept(), Reporter(), 4096, WeightsInMemory(), kept)

    return make
