"""What is fuzzed: for each kind of input, how heft reads it, from bytes, in an empty folder.

A target returns, or raises `HeftError`; anything else is a fault of heft. Used by fuzz.py, and by the tests, which
replay the inputs in corpus/.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from adapter_targets import AdapterConfig, AdapterDirectory, ForeignConfig, Weights
from pyreft_targets import PyreftConfig, PyreftState
from target import Target

from heft.errors import HeftError

ROOT = Path(__file__).parents[1]
RECIPE = (
    "name: t\nmodel: {name: 'random:tiny-llama'}\ntask: {name: whereabouts, train_size: 24, eval_size: 10}\n"
    "stages:\n  coarse: {method: lora, rank: 2, epochs: 1}\n  fine: {method: reft, positions: f1+l1, steps: 3}\n"
)
STUDY = "name: s\narms:\n  one: {recipe: recipe.yaml}\n  two: {recipe: recipe.yaml, set: {stages.fine.rank: 2}}\n"
RECORD = {"id": "a", "gold": 0, "prediction": 1, "correct": False, "log_likelihoods": [-1.5, -0.25]}
RECORD |= {"group": "g", "text": None, "prompt": "0123abcd"}


class RecipeFile(Target):
    """A recipe."""

    def seeds(self) -> list[bytes]:
        return [
            RECIPE.encode(),
            *(path.read_bytes() for path in sorted((ROOT / "src" / "heft" / "recipes").glob("*.yaml"))),
        ]

    def run(self, data: bytes) -> None:
        from heft.recipe.files import dump_recipe, load_recipe

        path = self.folder / "recipe.yaml"
        path.write_bytes(data)
        recipe = load_recipe(path)
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe, "a recipe that is written is not read back equal"


class StudyFile(Target):
    """A study, whose recipes are whole."""

    def setup(self) -> None:
        (self.folder / "recipe.yaml").write_text(RECIPE)

    def seeds(self) -> list[bytes]:
        return [
            STUDY.encode(),
            (STUDY + "seeds: [0, 1]\nbudget: {steps_of: one}\nreference: one\nbase: true\n").encode(),
        ]

    def run(self, data: bytes) -> None:
        from heft.study.files import load_study

        path = self.folder / "study.yaml"
        path.write_bytes(data)
        load_study(path)


class Overrides(Target):
    """What follows --set, one a line."""

    def setup(self) -> None:
        from heft.recipe.recipe import Recipe
        from heft.settings.files import read_document

        path = self.folder / "recipe.yaml"
        path.write_text(RECIPE)
        self.read = read_document(path, Recipe, "recipe", "x")

    def seeds(self) -> list[bytes]:
        return [
            b"stages.fine.rank=4",
            b"stages.coarse.targets=[q_proj, v_proj]\nseed=3",
            b"task={name: rows, train: a, eval: b}",
            b"stages.last={method: reft, steps: 2}\nsweep={grid: {learning_rate: [1e-3, 1e-4]}}",
        ]

    def run(self, data: bytes) -> None:
        from heft.recipe.recipe import Recipe
        from heft.settings.files import apply_overrides, validate

        document = self.read.part(())
        apply_overrides(document, data.decode("utf-8", "surrogateescape").split("\n"))
        validate(document, Recipe)


class Rows(Target):
    """Rows; the first byte says of which task."""

    def setup(self) -> None:
        from heft.tasks import TASKS

        self.tasks = {name: task for name, task in TASKS.items() if name != "whereabouts"}
        options = {
            "fact1": "f",
            "choices": {"text": ["x", "y", "z", "w"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        }
        self.rows = {
            "boolq": [{"question": "is it so", "passage": "It is.", "title": "t", "answer": True}],
            "arc_easy": [{"id": "1", "question": "Which?", **options}],
            "arc_challenge": [{"id": "1", "question": "Which?", **options}],
            "openbookqa": [{"id": "1", "question_stem": "Which", **options}],
            "piqa": [{"goal": "go", "sol1": "walk", "sol2": "sit", "label": 0}],
            "siqa": [{"context": "c", "question": "Q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "2"}],
            "hellaswag": [{"ctx": "He", "endings": ["a", "b", "c", "d"], "label": "1"}],
            "winogrande": [{"sentence": "The _ is big.", "option1": "dog", "option2": "cat", "answer": "1"}],
            "gsm8k": [{"question": "1+1?", "answer": "It is 2.\n#### 2"}],
            "rows": [{"prompt": "p", "completion": " c"}],
        }

    def seeds(self) -> list[bytes]:
        found = [
            bytes([number]) + _lines(self.rows.get(name, [{"question": "x"}]) * 2)
            for number, name in enumerate(self.tasks)
        ]
        choices = [
            {"question": "q", "choices": ["a", "b"], "answer": "b"},
            {"question": "r", "choices": ["a", "b"], "answer": 0},
        ]
        return [*found, bytes([list(self.tasks).index("rows")]) + _lines(choices)]

    def run(self, data: bytes) -> None:
        from heft.tasks import load_examples

        name = list(self.tasks)[(data or b"\0")[0] % len(self.tasks)]
        path = self.folder / "validation.jsonl"
        path.write_bytes(data[1:])
        files = {"source": str(self.folder), "eval_split": "validation"}
        if name == "rows":
            files = {"train": str(path), "eval": str(path)}
        for example in load_examples(self.tasks[name].settings_type(name=name, **files), "eval"):
            example.prompt.encode("utf-8")


class Records(Target):
    """The records of an evaluation."""

    def seeds(self) -> list[bytes]:
        text = {"id": "b", "gold": "12", "prediction": None, "correct": False, "text": "no \u2028 end"}
        return [_lines([RECORD, RECORD | {"id": "b"}]), _lines([text])]

    def run(self, data: bytes) -> None:
        from heft.results.metrics import measure
        from heft.results.records import read_records, write_records

        path = self.folder / "records.jsonl"
        path.write_bytes(data)
        found = read_records(path)
        write_records(path, found)
        assert read_records(path) == found, "records that are written are not read back equal"
        measure(found)


class Run(Target):
    """A run's and a study's files; the first byte says which of them the input is."""

    files = ("summary.json", "manifest.json", "metrics.jsonl", "recipe.yaml", "records/fine.jsonl", "study.json")

    def setup(self) -> None:
        from heft.run.directory import RUN_FORMAT

        self.count = 0
        entry = {"n": 2, "accuracy": 0.0, "balanced_accuracy": 0.0, "majority": 1.0, "interval": [0.0, 0.66]}
        entry |= {"predictions": {"0": 0.0, "1": 1.0}}
        trained = {"seconds": 1.5, "flops": 2e9, "tokens": 10, "steps": 3, "peak_bytes": None, "ended": "planned"}
        stages = [{"name": "base", "steps": 0, **entry}, {"name": "fine", **entry, **trained}]
        arms = [{"name": "a", "label": "A", "runs": ["."], "failed": [{"seed": 1, "error": "x"}]}]
        arms.append({"name": "b", "stage": "base", "runs": ["."]})
        self.whole = {
            "summary.json": json.dumps({"stages": stages}),
            "manifest.json": json.dumps({"format": RUN_FORMAT, "base": {"name": "m", "fingerprint": "f"}}),
            "metrics.jsonl": '{"stage": "fine", "step": 1, "loss": NaN}\n{"stage": "fine", "step": 2, "loss": 0.5}\n',
            "recipe.yaml": "name: t\nseed: 0\ntask: {name: boolq}\nstages: {fine: {method: reft, rank: 2}}\n",
            "records/fine.jsonl": _lines([RECORD, RECORD | {"id": "b", "group": None}]).decode(),
            "study.json": json.dumps({"format": 1, "name": "s", "reference": "a", "arms": arms}),
        }
        (self.folder / "records").mkdir(exist_ok=True)
        for name, text in {**self.whole, "records/base.jsonl": self.whole["records/fine.jsonl"]}.items():
            (self.folder / name).write_text(text)

    def seeds(self) -> list[bytes]:
        return [bytes([number]) + self.whole[name].encode() for number, name in enumerate(self.files)]

    def run(self, data: bytes) -> None:
        name = self.files[(data or b"\0")[0] % len(self.files)]
        try:
            (self.folder / name).write_bytes(data[1:])
            self.read(name)
        finally:
            (self.folder / name).write_text(self.whole[name])

    def read(self, name: str) -> None:
        from heft.compare.arms import arms_of, read_study, stage_arms
        from heft.compare.comparison import compare, costs_of
        from heft.compare.runs import read_metrics, read_run
        from heft.compare.table import markdown

        if name == "metrics.jsonl":
            read_metrics(self.folder)
            return
        arms = read_study(self.folder)[0] if name == "study.json" else stage_arms(read_run(self.folder))
        for arm in arms:
            costs_of(arm.runs, arm.stage)
        arms_of([arms[0].runs[0]], [arms[0].stage])
        self.count += 1
        if self.count % 50 == 1:  # bootstraps take time
            markdown(compare(arms))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "recipe": RecipeFile,
    "study": StudyFile,
    "overrides": Overrides,
    "rows": Rows,
    "records": Records,
    "run": Run,
    "heft_json": AdapterDirectory,
    "adapter_config": AdapterConfig,
    "foreign_config": ForeignConfig,
    "safetensors": Weights,
    "pyreft_config": PyreftConfig,
    "pyreft_state": PyreftState,
}


def replay(kind: str, data: bytes, folder: Path) -> None:
    """Read one input in a folder of its own; returns where heft reads it or refuses it with a `HeftError`."""
    inside = folder / "input"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(parents=True)
    try:
        TARGETS[kind](inside).run(data)
    except HeftError:
        return


def _lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
