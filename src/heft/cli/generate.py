"""`heft generate`: the answer to one prompt."""

from pathlib import Path
from typing import Annotated

import typer

from heft.cli.options import Base, RunOrAdapter, TrustRemoteCode
from heft.errors import HeftError


def generate(
    adapter: RunOrAdapter,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt, as text.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 64,
    chat_template: Annotated[
        bool | None, typer.Option(help="Apply the chat template (default: as in training).")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
) -> None:
    """Answer a prompt with an adapted model."""
    if not prompt.strip():
        raise HeftError("the prompt is empty; give some text")
    from heft.adapters.directory import open_adapters
    from heft.adapters.manifest import read_manifest
    from heft.adapters.places import adapter_directory

    adapter = adapter_directory(adapter)
    options = _as_trained(adapter, read_manifest(adapter).task, chat_template)
    from heft.data.encode import Encoder
    from heft.evaluation.generation import generate_texts
    from heft.models.limits import limits_of, require_room
    from heft.models.load import quiet
    from heft.text.escape import escape_controls

    quiet()
    loaded = open_adapters(adapter, trust_remote_code=trust_remote_code, base_name=base)
    encode = Encoder(loaded.tokenizer, 2**30, **options)
    ids = encode.prompt(prompt.rstrip())
    require_room(limits_of(loaded.model), ids, max_new_tokens)
    texts = generate_texts(
        loaded.model,
        loaded.tokenizer,
        [ids],
        batch_size=1,
        max_new_tokens=max_new_tokens,
        answer_end=encode.answer_end,
    )
    typer.echo(escape_controls(texts[0]))


def _as_trained(adapter: Path, task: dict, chat_template: bool | None) -> dict:
    """How prompts were wrapped in training, as options of an `Encoder`; `chat_template`, if given, overrides it.

    Raises:
        HeftError: the task's settings are not valid in a recipe, and `chat_template` is not given.
    """
    from heft.recipe.files import evaluation_request

    try:
        trained = evaluation_request({"task": dict(task)}, where=str(adapter / "heft.json")).task
        if chat_template in (None, trained.chat_template):
            args = {"template_args": trained.chat_template_args, "template_date": trained.template_date}
            return {"chat_template": trained.chat_template, **args}
        return {"chat_template": chat_template}
    except HeftError as error:
        if chat_template is not None:
            return {"chat_template": chat_template}
        raise HeftError(
            f"how prompts were made in training is not known: give --chat-template or --no-chat-template\n  {error}"
        ) from None
