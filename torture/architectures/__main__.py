"""Every class of transformers' causal-LM mapping as a tiny random model, in every way that heft uses a model.

python torture/architectures [NAMES] [--workers N] [--page FILE]: builds, tries, prints a line a class and the totals,
and, where all were tried, writes docs/architectures.md. Exit status 1 where one neither works nor is refused.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import attached
import counts
import runs
import shrink
import torch
import transformers
from forks import in_words, run
from page import Outcome, outcome_of, page, totals

_PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def _tried(name: str, work: Path) -> dict:
    """Build a model, reload it, and try both sides on it."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = work / "models" / name
    try:
        shrink.save(name, folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = torch.arange(3, 30)[None]
        with torch.no_grad():
            model(input_ids=ids)
    except Exception as error:  # of a class that cannot be made tiny, or that transformers itself cannot load
        return {"not_built": in_words(error)}
    found = attached.check(folder)
    if "not_run" in found:
        return {"not_built": f"transformers itself cannot run it: {found['not_run']}"}
    return {"attached": found, "counts": counts.check(folder), "runs": runs.check(folder, work / "runs" / name)}


def main() -> None:
    """Try the classes that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="classes, as transformers names their model type; all if none")
    parser.add_argument("--workers", type=int, default=2, help="classes at once")
    parser.add_argument("--seconds", type=float, default=400, help="most for a class")
    parser.add_argument("--work", type=Path, help="folder for models, runs and logs; a temporary one if not given")
    parser.add_argument("--page", type=Path, default=_PAGE, help="where the table goes once all were tried")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="heft-architectures-") as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        names = arguments.names or shrink.every_name()
        outcomes: dict[str, Outcome] = {}

        def done(name: str, found: dict) -> None:
            outcomes[name] = outcome_of(name, found)
            print(outcomes[name].line(), flush=True)

        run(names, lambda name: _tried(name, work), work / "found", arguments.seconds, arguments.workers, done)
    ordered = [outcomes[name] for name in sorted(outcomes)]
    print(totals(ordered))
    if not arguments.names:
        arguments.page.write_text(page(ordered))
    sys.exit(any(outcome.state == "fails" for outcome in ordered))


if __name__ == "__main__":
    main()
