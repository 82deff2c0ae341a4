"""The examples satisfy type checkers, and the notebook runs from its first cell to its last."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"
TINY = 'MODEL = "random:tiny-llama"\nSTEPS = 2\nRUN = "run"'


@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["mypy", "--check-untyped-defs", "--no-incremental"], marks=pytest.mark.long),
        ["pyright", "--pythonpath", sys.executable],
    ],
)
def test_type_checkers_find_nothing_in_the_examples(checker):
    command = [sys.executable, "-m", *checker, "examples/python_api.py", "examples/custom_task.py"]
    if checker[0] == "mypy":
        command.append("examples/train_flat.py")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "nodejs" in done.stderr and "download" in done.stderr.lower():
        pytest.skip("pyright needs node, which is not here")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_wrong_argument_is_found_by_a_type_checker(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("import heft\nheft.LoraStage(rank='four')\nheft.train(3)\nheft.nothing\n")
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "mypy", "--no-incremental", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert sorted(map(int, re.findall(r"wrong.py:(\d): error", done.stdout))) == [2, 3, 4]


@pytest.mark.long
def test_every_cell_of_the_notebook_runs_and_shows_what_it_should(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    assert [line.split()[0] for line in parameters.source.splitlines()] == [
        line.split()[0] for line in TINY.splitlines()
    ]
    parameters.source = TINY
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    trained, predicted, last = code[-3:]
    pages = [output.data["text/html"] for output in trained.outputs if "text/html" in output.get("data", {})]
    assert any("<progress" in page for page in pages)
    assert "<td>coarse</td>" in pages[-1]
    assert "probability_billing" in predicted.outputs[-1].data["text/html"]
    assert "LlamaForCausalLM with coarse, fine" in last.outputs[0].text
    assert (tmp_path / "run/report.html").is_file()


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)
