"""A study of the tiny random model, written to a folder of its own."""

from pathlib import Path

import pytest

from tiny_recipe import write_recipe

LORA = "{coarse: {method: lora, rank: 2, epochs: 2, batch_size: 8}}"
HEFT = (
    "{coarse: {method: lora, rank: 2, epochs: 1, batch_size: 8},"
    " fine: {method: reft, rank: 2, positions: l2, epochs: 2, batch_size: 8}}"
)
TASK = "{name: whereabouts, train_size: 24, eval_size: 8}"


@pytest.fixture
def study_file(tmp_path: Path):
    """Writes a study, given its YAML from `arms` on, beside the recipes lora.yaml and heft.yaml; returns its path."""

    def write(text: str) -> Path:
        write_recipe(tmp_path, LORA, file="lora.yaml", task=TASK)
        write_recipe(tmp_path, HEFT, file="heft.yaml", task=TASK)
        path = tmp_path / "study.yaml"
        path.write_text(f"name: s\noutput: {(tmp_path / 'out').as_posix()}\n{text}")
        return path

    return write
