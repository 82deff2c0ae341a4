"""`heft serve`: many adapters of one base model behind an OpenAI-compatible interface."""

import os
from pathlib import Path
from typing import Annotated

import typer

from heft.cli.options import TrustRemoteCode
from heft.errors import HeftError
from heft.text.escape import escape_controls


def serve(
    directories: Annotated[
        list[str],
        typer.Argument(
            metavar="[[NAME=]DIR]...", help="Runs or adapter directories of one base model, and names to ask for them."
        ),
    ] = [],  # noqa: B006 - typer wants a list
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="HEFT_API_KEY", show_envvar=True, help="Key that /v1 asks for."),
    ] = None,
    load_from: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Allow adapters beneath this folder to be loaded and dropped while running."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts that are generated at a time.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; one more is answered with 429.")] = 256,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=2, help="Tokens of a prompt and what follows it (default: the model's positions, up to 4096)."
        ),
    ] = None,
    max_prompts: Annotated[int, typer.Option(min=1, help="Prompts of one request, times n.")] = 128,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take, waiting included.")] = 600.0,
    prefix_memory: Annotated[
        int, typer.Option(metavar="MB", min=0, help="Memory for prefixes of prompts; 0: each prompt is computed whole.")
    ] = 1024,
    drain: Annotated[float, typer.Option(min=0, help="Seconds for running requests after SIGTERM or Ctrl-C.")] = 30.0,
    mix: Annotated[bool, typer.Option("--mix/--no-mix", help="Requests for different adapters share passes.")] = True,
    fused: Annotated[
        bool,
        typer.Option("--fused/--no-fused", help="Compute LoRA of all requests together, and frozen layers in oneDNN."),
    ] = True,
    override: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="model.KEY=value, such as model.device=cuda.")
    ] = [],  # noqa: B006 - typer wants a list
    trust_remote_code: TrustRemoteCode = False,
    base: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder or Hub id of the base model, if it has moved; alone: served alone."),
    ] = None,
) -> None:
    """Serve adapters of one base model: OpenAI-compatible completions and chats, labels with probabilities, a page.

    Needs the extra `serve` (docs/serving.md). NAME stands for all stages of a run, NAME:STAGE for those up to one.
    """
    try:
        from heft.serving.http.app import Access
        from heft.serving.http.server import LOOPBACK, open_engine
        from heft.serving.http.server import serve as run_server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn", "prometheus_client"):
            raise
        raise HeftError(f'heft serve needs {error.name}: pip install "heft[serve]"') from None
    from heft.models.load import quiet
    from heft.serving.limits import Limits

    if load_from is not None and not load_from.is_dir():
        raise HeftError(f"--load-from {load_from} is no folder")
    quiet()
    limits = Limits(
        batch=batch,
        queue=queue,
        tokens=max_tokens,
        prompts=max_prompts,
        seconds=timeout,
        prefix_bytes=prefix_memory << 20,
    )

    def note(text: str) -> None:
        typer.echo(escape_controls(f"note: {text}"), err=True)

    engine = open_engine(directories, limits, override, base, trust_remote_code, mix, fused, note)
    positions, tokens = engine.catalog.limits.positions, limits.tokens_of(engine.catalog.limits)
    if positions is not None and tokens > positions + 1:
        made_for = f"the model was made for {positions:,} positions; what comes beyond may make no sense"
        note(f"--max-tokens is {tokens:,}, and {made_for}")
    if host not in LOOPBACK and not api_key:
        typer.echo(f"warning: {host} can be reached from other machines, and no --api-key is set", err=True)
    for name, served in engine.catalog.served.items():
        if served.alone is not None and mix:
            note(f"{name} has passes of its own: {served.alone}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_server(engine, host, port, Access(api_key or None, load_from), drain, lambda line: typer.echo(line))
