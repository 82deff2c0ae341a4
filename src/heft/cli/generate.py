"""`heft generate`: one prompt, asked as the adapter was trained to be asked."""

from pathlib import Path

import typer

from heft.errors import HeftError
from heft.recipe_io import evaluation_request
from heft.terminal import plain


def run_generation(
    adapter: Path, prompt: str, max_new_tokens: int, chat_template: bool | None, trust_remote_code: bool
) -> None:
    """Print the answer; `chat_template` None takes what the adapter was trained with."""
    if not prompt.strip():
        raise HeftError("the prompt is empty; give the text to go on from")
    from heft.adapter_dir import open_adapters
    from heft.adapter_manifest import read_manifest

    wrapped = _as_trained(adapter, read_manifest(adapter).task) if chat_template is None else chat_template

    from heft.data import Encoder
    from heft.evaluation.generation import generate_texts
    from heft.models import quiet

    quiet()
    loaded = open_adapters(adapter, trust_remote_code=trust_remote_code)
    ids = Encoder(loaded.tokenizer, 2**30, wrapped).prompt(prompt.rstrip())
    texts = generate_texts(loaded.model, loaded.tokenizer, [ids], batch_size=1, max_new_tokens=max_new_tokens)
    typer.echo(plain(texts[0]))


def _as_trained(adapter: Path, task: dict) -> bool:
    """Whether prompts were wrapped as a user's turn.

    Raises:
        HeftError: the task's settings are not such as a recipe may have.
    """
    try:
        return evaluation_request({"task": dict(task)}, where=str(adapter / "heft.json")).task.chat_template
    except HeftError as error:
        raise HeftError(
            f"how prompts were made cannot be told: say --chat-template or --no-chat-template\n  {error}"
        ) from None
