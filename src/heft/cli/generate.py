"""`heft generate`: the answers to prompts, or a conversation."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heft.cli.options import Base, Device, Encoding, RunOrAdapter, TrustRemoteCode
from heft.errors import HeftError
from heft.text.escape import escape_controls
from heft.text.units import percent

if TYPE_CHECKING:
    from heft.prediction.predict import Prediction
    from heft.prediction.prompts import Speaking
    from heft.tasks import Task


def generate(
    run: RunOrAdapter,
    prompts: Annotated[
        list[str], typer.Argument(metavar="[PROMPT]...", help="Prompts, as text; - for lines on standard input.")
    ] = [],  # noqa: B006 - typer wants a list
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts, one a line, or a table with the task's columns or `prompt`."),
    ] = None,
    encoding: Encoding = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="A conversation through the chat template; in a pipe each line is a turn.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Generate text, where the task has labels that would be answered with.")
    ] = False,
    stages: Annotated[
        list[str],
        typer.Option(metavar="STAGE", help="A stage whose adapter is on, or base (default: all); repeatable."),
    ] = [],  # noqa: B006 - typer wants a list
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens to generate (default: the task's own, or 64).")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Draw tokens at this temperature; 0 takes the likeliest.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens up to this share.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Seed of the draws.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts per forward pass.")] = None,
    chat_template: Annotated[
        bool | None, typer.Option(help="Apply the chat template (default: as in training).")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
    device: Device = None,
) -> None:
    """Answer prompts: with a label and its probability where the task has labels, else with a text.

    One prompt is answered with plain text, several with JSON Lines.
    """
    if temperature == 0 and (top_p != 1.0 or seed != 0):
        raise HeftError("--top-p and --seed have an effect with --temperature above 0 only, such as --temperature 0.7")
    if top_p == 0:
        raise HeftError("--top-p is 0, which leaves no token; give a share above 0, up to 1")
    if chat and (prompts or file is not None or chat_template is False):
        raise HeftError(
            "--chat takes turns from the terminal or a pipe: leave out prompts, --file and --no-chat-template"
        )
    if file is not None and prompts:
        raise HeftError("give prompts, or --file; got both")
    if encoding is not None and file is None:
        raise HeftError("--encoding is of a file: give --file FILE too")
    from heft.evaluation.generation import Sampling
    from heft.prediction.prompts import prompts_in, refuse_file_names, typed
    from heft.prediction.speaking import speaker

    refuse_file_names(prompts, run)
    opened = speaker(run, stages, True if chat else chat_template, base, trust_remote_code, device)
    if not chat:
        task = opened.task
        if file is None:
            texts = _given(prompts)
            given = typed(texts, task, text)
            _warn_of_missed_forms(texts, task)
        else:
            given = prompts_in(file, task, text, encoding)
        if temperature and given[0].choices:
            raise HeftError(
                "--temperature draws the tokens of a text, and the answer is one of the task's labels: give --text too"
            )
    sampling = Sampling(temperature, top_p, seed) if temperature else None
    speaking = opened.load(max_new_tokens, sampling, batch_size, _warn_once())
    if chat:
        _converse(speaking)
        return
    answers = speaking.answers(given)
    if len(given) == 1:
        typer.echo(escape_controls(_in_words(answers[0])))
        return
    for example, answer in zip(given, answers, strict=True):
        typer.echo(escape_controls(json.dumps(_as_json(example.prompt, answer), ensure_ascii=False)))


def _given(prompts: Sequence[str]) -> list[str]:
    """The prompts, or the lines of standard input where there are none."""
    if prompts and list(prompts) != ["-"]:
        return list(prompts)
    if sys.stdin.isatty() and not prompts:
        raise HeftError("give a prompt, several, --file FILE, - for lines of standard input, or --chat")
    found = list(_lines_of_input())
    if not found:
        raise HeftError("there are no prompts on standard input; give one a line, or a prompt as an argument")
    return found


def _warn_once() -> Callable[[str], None]:
    """Prints the first warning that it is given: a conversation that is too long is so in each turn."""
    said: list[str] = []

    def warn(text: str) -> None:
        if not said:
            _warn(text)
        said.append(text)

    return warn


def _warn_of_missed_forms(texts: Sequence[str], task: "Task | None") -> None:
    """Say once that a prompt is not as rows are, where the model was trained on nothing else."""
    from heft.settings.words import show

    missed = next(filter(None, map(task.missed_form, texts)), None) if task is not None else None
    if missed is not None:
        told = (
            f"a prompt is asked as it stands, and rows are asked as {show(missed)}; give whole prompts, or --file ROWS"
        )
        _warn(told)


def _warn(text: str) -> None:
    typer.echo(escape_controls(f"warning: {text}"), err=True)


def _lines_of_input() -> Iterator[str]:
    """Lines of standard input, without blank ones.

    Raises:
        HeftError: it is in another encoding.
    """
    try:
        for line in sys.stdin:
            line.encode("utf-8")  # Python lets bytes that are no text through where no locale is set
            if line.strip():
                yield line.strip()
    except UnicodeError:
        raise HeftError(
            f"standard input is not {sys.stdin.encoding.upper()}; save it as a file and give --file FILE --encoding"
            " NAME, such as --encoding cp1252"
        ) from None


def _in_words(answer: "Prediction") -> str:
    if answer.labels:
        return f"{answer.answer} ({percent(answer.probability)})"
    return answer.text or ""


def _as_json(prompt: str, answer: "Prediction") -> dict:
    found = {"prompt": prompt, "answer": answer.answer}
    if answer.labels:
        found["probability"] = answer.probability
        found["probabilities"] = dict(zip(answer.labels, answer.probabilities, strict=True))
    return found


def _converse(speaking: "Speaking") -> None:
    """Turn by turn, until the input ends."""
    turns: list[tuple[str, str]] = []
    for line in _turns():
        turns.append(("user", line))
        answer = speaking.reply(turns)
        turns.append(("assistant", answer))
        typer.echo(escape_controls(answer.strip()))


def _turns() -> Iterator[str]:
    """What the user says, line by line."""
    if not sys.stdin.isatty():
        yield from _lines_of_input()
        return
    typer.echo("a conversation; an empty line or Ctrl-D ends it", err=True)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
