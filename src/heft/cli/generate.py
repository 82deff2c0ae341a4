"""`heft generate`: one prompt, asked as the adapter was trained to be asked."""

from pathlib import Path

import typer

from heft.errors import HeftError
from heft.recipe.files import evaluation_request
from heft.text.escape import escape_controls


def run_generation(
    adapter: Path,
    prompt: str,
    max_new_tokens: int,
    chat_template: bool | None,
    trust_remote_code: bool,
    base: str | None = None,
) -> None:
    """Print the answer; `chat_template` None takes what the adapter was trained with."""
    if not prompt.strip():
        raise HeftError("the prompt is empty; give the text to go on from")
    from heft.adapters.directory import open_adapters
    from heft.adapters.manifest import read_manifest

    asked = _as_trained(adapter, read_manifest(adapter).task, chat_template)

    from heft.data.encode import Encoder
    from heft.evaluation.generation import generate_texts
    from heft.models.limits import limits_of, require_room
    from heft.models.load import quiet

    quiet()
    loaded = open_adapters(adapter, trust_remote_code=trust_remote_code, base_name=base)
    encode = Encoder(loaded.tokenizer, 2**30, **asked)
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
    """How prompts were wrapped, as options of an `Encoder`; `chat_template` goes before what the directory says.

    Raises:
        HeftError: the task's settings are not such as a recipe may have, and the person has not said it.
    """
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
            f"how prompts were made cannot be told: say --chat-template or --no-chat-template\n  {error}"
        ) from None
