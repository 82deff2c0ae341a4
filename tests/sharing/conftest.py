"""A run to share, and a stand-in of the Hub that huggingface_hub in this process talks to."""

import pytest
from hub_server import serving
from huggingface_hub import constants

import heft
from heft.runtime import hub as requests
from tiny_recipe import write_recipe

LORA = "coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}"
FINE = "fine: {method: reft, rank: 2, positions: l2, steps: 2, batch_size: 4}"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The directory of a run with two stages."""
    folder = tmp_path_factory.mktemp("shared")
    return heft.train(write_recipe(folder, f"{{{LORA}, {FINE}}}", f"output: {folder / 'run'}")).directory


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, with the token of ann, who may write in `ann` and `org`."""
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HEFT_CACHE", str(tmp_path / "heft"))
        monkeypatch.setenv("HF_TOKEN", "hf_ann")
        monkeypatch.setattr(requests, "WAITS", (0.01, 0.01, 0.01))
        yield found
