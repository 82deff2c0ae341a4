"""The commands: what each takes, and what it prints. The work is done elsewhere, imported when a command runs."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="heft",
    help="Adapt a language model to a reasoning task in stages, LoRA then ReFT, and show what each stage bought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as stages.fine.rank=4; may be repeated."),
]


TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let code that comes with the base model run; only for sources you trust."
    ),
]


Base = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Folder or Hub id of the base model, if it has moved since training."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from heft import __version__

        typer.echo(f"heft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the run; runs/<name> if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the run's directory holds, if it holds anything.")
    ] = False,
) -> None:
    """Train a recipe's stages and show what each bought."""
    from heft.cli.show import ConsoleReporter, results_table, saying_what_stays
    from heft.recipe.files import load_recipe
    from heft.recipe.grid import refuse_sweep
    from heft.run.begun import is_begun, require_free, require_same
    from heft.runtime import distributed

    loaded = load_recipe(recipe, override, output=str(output) if output else None)
    refuse_sweep(loaded)  # all again in the run; here they are said before torch takes its seconds
    if not resume:
        require_free(loaded.output_dir)
    elif is_begun(loaded.output_dir):
        require_same(loaded)
    reporter = ConsoleReporter()
    reporter.note("importing torch and transformers")
    from heft.run.train import train as run_recipe

    with saying_what_stays(loaded.output_dir, reporter, go_on=_this_command("--resume")):
        run = run_recipe(loaded, reporter, resume)
    reporter.console.print(results_table(run.stages))
    reporter.note(f"run: {run.directory}   adapter: {run.directory / 'adapter'}")
    distributed.leave()


def _this_command(option: str) -> str:
    """What was typed, with an option that it may have already."""
    typed = [each for each in sys.argv[1:] if each != option]
    return shlex.join(["heft", *typed, option])


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe with a `sweep`, a YAML file.")],
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the sweep; runs/<name> if not given.")
    ] = None,
) -> None:
    """Train many configurations of the last stage side by side and rank them on held-back training rows."""
    from heft.cli.sweep import run_sweep

    run_sweep(recipe, override, output)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    override: Overrides = [],  # noqa: B006 - typer wants a list
    probe: Annotated[bool, typer.Option(help="Measure this machine for ten seconds, for expected times.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    show: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Show N training examples token by token, as the model will see them."),
    ] = None,
) -> None:
    """Say what a recipe will cost, without loading weights: steps, FLOPs, memory, time."""
    from heft.cli.plan import run_plan

    run_plan(recipe, override, probe, as_json, show)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Directories of runs, RUN:stage for a stage of one; or one study: its directory, or its YAML file, "
            "which is then run.",
        ),
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="Set every other against this one; all pairs if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the study; runs/<name> if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what a study would cost, and train nothing.")] = False,
) -> None:
    """Set runs against each other on the same questions, or run a study and compare its arms."""
    from heft.cli.compare import run_compare

    run_compare(runs, reference, as_json, override, output, dry_run)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_STUDY...", help="Directories of runs and studies; RUN:stage for a stage of a run."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown too.")] = None,
) -> None:
    """Write runs as one HTML page that needs nothing else: verdict, tables, curves, examples, settings."""
    from heft.cli.report import run_report

    run_report(runs, output, markdown)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="An adapter directory, or a base model as in a recipe's model.name.")],
    task: Annotated[str | None, typer.Option(help="Task to evaluate on; an adapter's own task if not given.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the task's data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate on this many rows at most.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a record per example, as JSON Lines.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per forward pass.")] = None,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
) -> None:
    """Evaluate an adapter or a base model on a task. --set takes task.KEY, evaluation.KEY and model.KEY."""
    from heft.cli.evaluate import run_evaluation

    run_evaluation(model, task, split, limit, output, batch_size, override, trust_remote_code, base)


@app.command()
def generate(
    adapter: Annotated[Path, typer.Argument(help="An adapter directory, such as runs/quickstart/adapter.")],
    prompt: Annotated[str, typer.Argument(help="The prompt, as text.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 64,
    chat_template: Annotated[
        bool | None, typer.Option(help="Wrap the prompt as a user's turn; as trained if not given.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
) -> None:
    """Answer a prompt with an adapted model."""
    from heft.cli.generate import run_generation

    run_generation(adapter, prompt, max_new_tokens, chat_template, trust_remote_code, base)


@app.command()
def verify(
    adapter: Annotated[Path, typer.Argument(help="An adapter directory, such as runs/quickstart/adapter.")],
    rows: Annotated[int, typer.Option(help="Rows of the adapter's task to compare on, at least 2.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; as the recipe asked for if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
) -> None:
    """Check on this machine that an adapter equals itself in every way it is used. Exit status 1: a check failed."""
    from heft.cli.verify import run_verification

    run_verification(adapter, rows, device, as_json, trust_remote_code, base)


@app.command()
def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask the Hub whether it can be reached; nothing is sent otherwise.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Look at this machine: versions, device, threads, disk, cache, Hub, and what to do. Exit status 1: a fault."""
    from heft.cli.doctor import run_doctor

    run_doctor(online, as_json)
