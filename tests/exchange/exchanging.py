"""What the tests of exports and imports share: directories with random adapters, and others' logits."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from heft.adapters.attach import activate, attach
from heft.adapters.load import load
from heft.adapters.manifest import AdapterEntry
from heft.adapters.methods import adapters_of
from heft.models.load import Base, load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import Stage
from saving import save_adapters
from tiny import byte_tokenizer, tiny_model

ROOT = Path(__file__).parents[2]
IDS = torch.tensor(
    [[7, 50, 61, 12, 90, 33, 45, 17, 28, 99, 104, 77], [9, 91, 82, 73, 64, 55, 46, 37, 28, 19, 110, 101]]
)
PROMPTS = torch.tensor([9, 9])
"""Tokens of each row that are its prompt."""
SIDE = Path(__file__).parent / "pyreft_side.py"


def saved_base(folder: Path, architecture: str = "llama", dtype=torch.float32, **config) -> Path:
    """A tiny model and its tokenizer in a folder. Its biases are not 0, as transformers begins with them."""
    model = tiny_model(architecture, **config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.3)
    model.to(dtype).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def made(
    folder: Path, stages: dict, base: str = "random:tiny-llama", dtype: str = "float32", spread: float = 0.1
) -> Path:
    """An adapter directory whose adapters, by the settings of stages, have random weights that change much."""
    loaded = load_base(ModelSettings(name=base, device="cpu", dtype=dtype))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        entries = [entry for name, values in stages.items() for entry in _attached(loaded, name, values, spread)]
    activate(loaded.model, list(loaded.model.peft_config))
    return save_adapters(folder, loaded, entries)


def _attached(loaded: Base, name: str, values: dict, spread: float) -> list[AdapterEntry]:
    stage = TypeAdapter(Stage).validate_python(values)
    attached = attach(loaded.model, name, stage, loaded.tokenizer)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(spread * torch.randn(parameter.shape))
    assert attached.names
    return [AdapterEntry(name=each.name, method=each.method, stage=name) for each in adapters_of(name, stage)]


def adapted(directory: Path, *names: str):
    """heft's model with these adapters of a directory on; all where none is named."""
    model = load(directory)[0]
    activate(model, names or list(model.peft_config))
    return model


@torch.no_grad()
def logits_of(model, **inputs) -> torch.Tensor:
    """Logits of `IDS`, in float32."""
    return model.eval()(input_ids=IDS, **inputs).logits.float()


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference as a share of the largest logit."""
    return ((first - second).abs().max() / second.abs().max()).item()


def pyreft_python() -> str:
    """The Python of pyreft's environment, which `make pyreft-env` builds; the test is skipped without it."""
    given = Path(os.environ.get("HEFT_PYREFT_PYTHON", ROOT / "benchmarks/.envs/pyreft/bin/python"))
    if not given.is_file():
        pytest.skip(f"no environment of pyreft at {given}: `make pyreft-env` builds it")
    return str(given)


def in_pyreft(folder: Path, jobs: list[dict]) -> None:
    """Do jobs (tests/exchange/pyreft_side.py) in a process of pyreft's environment."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [pyreft_python(), str(SIDE), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]
