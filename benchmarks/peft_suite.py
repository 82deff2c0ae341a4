"""Run PEFT's own tests of a PEFT method on ReFT, and write down which pass.

    python benchmarks/peft_suite.py [--peft-source FOLDER] [--write docs/peft_suite.md]

PEFT's source distribution of the version installed here is downloaded with pip into a temporary folder (or
`--peft-source` names an unpacked one). Its `tests/test_decoder_models.py` says which of the common cases
(`PeftCommonTester._test_*`) PEFT runs on decoders; these are run here with `ReftConfig`, and the rest of them too, on
two tiny random models that are saved to disk, so no Hub is needed. Nothing of PEFT's is kept. Leaves with status 1 if a
case fails that `DOES_NOT_APPLY` does not explain.
"""

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

CONFIGS = {
    "loreft": {},
    "untied": {"intervention": "noreft", "positions": "f2+l1", "tied": False, "dropout": 0.1},
    "all_mlp": {"intervention": "direft", "positions": "all", "site": "mlp", "activation": "silu"},
}
AWAY_FROM_START = {"intervention": "consreft", "positions": "l2"}
"""For cases that ask for an adapter that changes the output from the start (PEFT's `init_weights=False`)."""

MODELS = {"llama": "llama", "gpt2": "gp_two"}
"""Architecture → folder; PEFT skips folders named gpt2 for methods that wrap Conv1D, which ReFT does not touch."""

MERGING = "ReFT edits hidden states, which no weight can hold; merging is refused, with a message that says so"
REFUSAL = "cannot be merged"
DOES_NOT_APPLY = {
    "_test_merge_layers": (MERGING, REFUSAL),
    "_test_merge_layers_multi": (MERGING, REFUSAL),
    "_test_merge_layers_nan": (MERGING, REFUSAL),
    "_test_merge_layers_fp16": (MERGING, REFUSAL),
    "_test_merge_layers_is_idempotent": (MERGING, REFUSAL),
    "_test_safe_merge": (MERGING, REFUSAL),
    "_test_training_gradient_checkpointing": (
        "it trains without labels, and in training mode an adapter of prompt positions asks for them or prompt_lengths",
        "neither labels nor prompt_lengths reach the model",
    ),
    "_test_add_adapter_no_autocast_adapter_dtype": (
        "an adapter is float32 whatever the base is: a half-precision R would not be orthonormal, nor the start the"
        " identity",
        "assert {torch.float32} <= {torch.",
    ),
}
"""Case → why it does not apply, and what its failure must say to count as that. One that passes counts as passed."""

TEST_MODULE = '''
import json, sys
from pathlib import Path
import pytest, torch, heft
from heft.reft import ReftConfig
from transformers import AutoModelForCausalLM
pytest.register_assert_rewrite("peft_tests.testing_common")
from peft_tests.testing_common import PeftCommonTester

HERE = Path(__file__).parent
CASES = json.loads((HERE / "cases.json").read_text())


class Runner(PeftCommonTester):
    transformers_class = AutoModelForCausalLM

    def prepare_inputs_for_testing(self):
        """Two rows of three tokens, one of them masked in the middle."""
        mask = torch.tensor([[1, 1, 1], [1, 0, 1]])
        return {"input_ids": torch.tensor([[5, 9, 7], [8, 4, 6]]), "attention_mask": mask}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_case(number):
    case = CASES[number]
    extra = {k: getattr(torch, v[6:]) if str(v).startswith("torch.") else v for k, v in case["extra"].items()}
    leading = [""] if case["method"] == "_test_passing_input_embeds_works" else []
    torch.manual_seed(0)
    kwargs = {"task_type": "CAUSAL_LM", **case["config"]}
    getattr(Runner(), case["method"])(*leading, str(HERE / case["folder"]), ReftConfig, kwargs, **extra)
'''


@dataclass(frozen=True)
class Case:
    """One of PEFT's common cases: its method, further arguments as JSON, and whether it starts off the identity."""

    method: str
    extra: str
    away_from_start: bool

    @property
    def title(self) -> str:
        return f"`{self.method}`" + "".join(f" {key}={value}" for key, value in json.loads(self.extra).items())


@dataclass(frozen=True)
class Result:
    """What became of one case with one config on one model: passed, failed or not applicable, and why."""

    outcome: str
    reason: str


def fetch_source(folder: Path) -> Path:
    """Download and unpack the source distribution of the installed PEFT."""
    wanted = f"peft=={version('peft')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-binary", ":all:", "--dest", str(folder), wanted], check=True)
    (archive,) = folder.glob("peft-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def read_cases(test_file: Path) -> list[Case]:
    """The common cases that PEFT's decoder tests run for every method, each once, in their order."""
    cases: dict[Case, None] = {}
    for function in ast.walk(ast.parse(test_file.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and {"model_id", "config_cls"} <= {a.arg for a in function.args.args}:
            names = {node.func.id for node in calls(function) if isinstance(node.func, ast.Name)}
            for call in calls(function):
                if isinstance(call.func, ast.Attribute) and call.func.attr.startswith("_test_"):
                    for extra in further_arguments(call, function):
                        away = "set_init_weights_false" in names
                        cases[Case(call.func.attr, json.dumps(extra, sort_keys=True), away)] = None
    return list(cases)


def read_other_cases(common_file: Path, known: list[Case]) -> list[Case]:
    """The common cases for any method that PEFT runs in other test files than that of decoders."""
    names = {case.method for case in known}
    tree = ast.walk(ast.parse(common_file.read_text(encoding="utf-8")))
    functions = [node for node in tree if isinstance(node, ast.FunctionDef) and node.name.startswith("_test_")]
    for_any = [
        f for f in functions if [a.arg for a in f.args.args] == ["self", "model_id", "config_cls", "config_kwargs"]
    ]
    return [Case(f.name, "{}", "merge" in f.name) for f in for_any if f.name not in names]


def calls(node: ast.AST) -> list[ast.Call]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Call)]


def further_arguments(call: ast.Call, function: ast.FunctionDef) -> list[dict]:
    """Every combination of the keywords that a test passes on, taken from the call or from its parametrisation."""
    combinations: list[dict] = [{}]
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Constant):
            values = [keyword.value.value]
        else:
            values = parametrised(function, ast.unparse(keyword.value))
        combinations = [{**given, keyword.arg: value} for given in combinations for value in values]
    return combinations


def parametrised(function: ast.FunctionDef, name: str) -> list:
    """The values that `@pytest.mark.parametrize(name, [...])` gives, with names such as `torch.float16` as text."""
    for decorator in function.decorator_list:
        match decorator:
            case ast.Call(args=[ast.Constant(value=given), ast.List(elts=items)]) if given == name:
                return [item.value if isinstance(item, ast.Constant) else ast.unparse(item) for item in items]
    raise ValueError(f"{function.name}: found no list of values for {name}; PEFT's tests have changed, read them anew")


def prepare(folder: Path, source: Path, cases: list[Case]) -> list[tuple[Case, str, str]]:
    """Write the models, PEFT's helpers and the test module into `folder`; returns (case, config, model) per test."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from tiny import tiny_model

    package = folder / "peft_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("testing_common.py", "testing_utils.py"):
        shutil.copy(source / "tests" / name, package)
    if find_spec("diffusers") is None:  # imported there for image models only
        (folder / "diffusers.py").write_text("class StableDiffusionPipeline:\n    pass\n")
    for architecture, name in MODELS.items():
        tiny_model(architecture).save_pretrained(folder / name)
    runs, described = [], []
    for case in cases:
        configs = {"consreft": AWAY_FROM_START} if case.away_from_start else CONFIGS
        for config_name, config in configs.items():
            for architecture, name in MODELS.items():
                runs.append((case, config_name, architecture))
                extra = json.loads(case.extra)
                described.append({"method": case.method, "extra": extra, "config": config, "folder": name})
    (folder / "cases.json").write_text(json.dumps(described))
    (folder / "test_reft_suite.py").write_text(TEST_MODULE)
    return runs


def run_tests(folder: Path, runs: list[tuple[Case, str, str]]) -> list[Result]:
    """Run the test module in a Python of its own and read what became of each test, in the order of `runs`."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    command += ["-c", os.devnull, f"--junitxml={report}", "--tb=short", str(folder / "test_reft_suite.py")]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if not report.exists():
        sys.exit(f"the tests did not start:\n{finished.stdout[-3000:]}{finished.stderr[-3000:]}")
    found = {test.get("name"): test for test in ElementTree.parse(report).iter("testcase")}
    if missing := [i for i in range(len(runs)) if f"test_case[{i}]" not in found]:
        sys.exit(f"{len(missing)} tests were not run:\n{finished.stdout[-3000:]}{finished.stderr[-3000:]}")
    return [judge(run[0], found[f"test_case[{i}]"]) for i, run in enumerate(runs)]


def judge(case: Case, test: ElementTree.Element) -> Result:
    """Passed, skipped by PEFT itself, failed for a reason that is known, or failed."""
    for child in test:
        words = " ".join((child.get("message") or "").split())
        if child.tag == "skipped":
            return Result("not applicable", f"skipped by PEFT: {words.rpartition('Skipped: ')[2][:110]}")
        if child.tag in ("failure", "error"):
            why, expected = DOES_NOT_APPLY.get(case.method, ("", None))
            if expected is not None and expected in words:
                return Result("not applicable", why)
            return Result("failed", words[:200])
    return Result("passed", "")


def to_markdown(runs: list[tuple[Case, str, str]], results: list[Result]) -> str:
    """Counts first, then a line per case."""
    totals = Counter(result.outcome for result in results)
    grouped: dict[Case, list[Result]] = {}
    for (case, _, _), result in zip(runs, results, strict=True):
        grouped.setdefault(case, []).append(result)
    counts = ", ".join(f"{totals[outcome]} {outcome}" for outcome in ("passed", "failed", "not applicable"))
    configs = CONFIGS | {"consreft": AWAY_FROM_START}
    lines = [
        "# PEFT's own tests on ReFT",
        "",
        "<!-- Written by `python benchmarks/peft_suite.py --write docs/peft_suite.md`. -->",
        "",
        f"**{counts}** of {len(results)} tests: {len(grouped)} cases of PEFT {version('peft')}'s `PeftCommonTester`,"
        f" those of its decoder tests first, on tiny random {' and '.join(MODELS)} models, with transformers"
        f" {version('transformers')} and torch {version('torch').partition('+')[0]}.",
        "",
        *[f"- `{name}`: {json.dumps(config) if config else 'all defaults'}" for name, config in configs.items()],
        "",
        "Cases that need an adapter which changes the output from the start run with `consreft` alone, all others with"
        " the first three. `_test_lora_conversion` passes because ReFT says that it cannot be converted.",
        "",
        "| case | passed | failed | not applicable | why |",
        "|---|---|---|---|---|",
    ]
    for case, found in grouped.items():
        of = Counter(result.outcome for result in found)
        why = "; ".join(dict.fromkeys(result.reason for result in found if result.reason)).replace("|", "\\|")
        cells = [case.title, *(str(of[outcome] or "") for outcome in ("passed", "failed", "not applicable")), why]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peft-source", type=Path, help="an unpacked source distribution or checkout of PEFT")
    parser.add_argument("--write", type=Path, help="where the table goes; printed if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.peft_source or fetch_source(folder)
        cases = read_cases(source / "tests" / "test_decoder_models.py")
        cases += read_other_cases(source / "tests" / "testing_common.py", cases)
        runs = prepare(folder, source, cases)
        results = run_tests(folder, runs)
    table = to_markdown(runs, results)
    arguments.write.write_text(table, encoding="utf-8") if arguments.write else print(table)
    sys.exit(1 if any(result.outcome == "failed" for result in results) else 0)


if __name__ == "__main__":
    main()
