"""What the task tests share: the real data, where it stands beside the repository, and files of rows."""

import json
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture
def shared_folder():
    """`shared_folder("boolq")` is the folder of that task's real rows; the test is skipped where they are absent."""

    def folder(task_name: str) -> str:
        path = SHARED_DATA / task_name
        if not path.is_dir():
            pytest.skip(f"the real rows of {task_name} are not at ../shared/data")
        return str(path)

    return folder


@pytest.fixture
def rows_folder(tmp_path):
    """`rows_folder(rows, split)` writes `<split>.jsonl` and returns its folder."""

    def folder(rows: list[dict], split: str = "validation") -> str:
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(tmp_path)

    return folder
