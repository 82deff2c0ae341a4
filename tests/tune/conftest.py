"""A search on the tiny model."""

import pytest

from searches import searched


@pytest.fixture(scope="session")
def two_arms(tmp_path_factory):
    """A search of LoRA, and of LoRA, then ReFT."""
    return searched(tmp_path_factory.mktemp("two"), "lora, lora+reft")
