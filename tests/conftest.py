"""What all tests share: no network, one thread (several make tiny models slower), the tiny model and its recipe."""

import gc
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from tiny_recipe import write_recipe

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
REAL = pytest.StashKey()


def pytest_configure(config):
    """On every processor `dtype: auto` is float32, unless a test asks what the hardware has. No disk is waited for."""
    from heft.models import precision

    config.stash[REAL] = precision.multiplies_bfloat16
    precision.multiplies_bfloat16 = lambda device: False
    os.fsync = lambda handle: None  # it guards against a loss of power alone; thousands of calls take minutes


def pytest_collection_finish(session):
    """What is imported by now stays, and garbage is collected faster where that is not looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def real_multiplies_bfloat16(request):
    """`heft.models.precision.multiplies_bfloat16`, which asks this machine."""
    return request.config.stash[REAL]


@pytest.fixture
def recipe_file(tmp_path):
    """Writes a recipe for the tiny random model and returns its path (tiny_recipe.write_recipe, in tmp_path)."""

    return partial(write_recipe, tmp_path)


@pytest.fixture
def fresh_shapes():
    """Models are counted anew, and how this test has them counted is forgotten after it."""
    from heft.costs.shapes import forget_shapes

    forget_shapes()
    yield
    forget_shapes()


@pytest.fixture
def shared_data():
    """The folder of real data beside the checkout, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared/data beside this checkout")
    return SHARED_DATA
