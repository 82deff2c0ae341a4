"""`heft export`: a run's adapters in another library's format."""

from pathlib import Path
from typing import Annotated

import typer

from heft.cli.options import AsJson, Base, Device, Quiet, RunOrAdapter, TrustRemoteCode


def export(
    adapter: RunOrAdapter,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it may not be there yet.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="transformers, peft or pyreft.")],
    stages: Annotated[
        list[str], typer.Option(metavar="STAGE", help="A stage whose adapter is exported (default: all); repeatable.")
    ] = [],  # noqa: B006 - typer wants a list
    fold: Annotated[
        bool,
        typer.Option("--fold", help="Make ReFT edits of all tokens part of the linear layers whose outputs they edit."),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="float32 or bfloat16 for merged weights (default: as trained)."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's adapters for transformers (LoRA merged), PEFT (one LoRA) or pyreft, exactly or not at all."""
    from heft.cli.documents import ExportDocument
    from heft.cli.output import Output
    from heft.exchange.export import export as run_export
    from heft.models.load import quiet as no_progress

    output = Output(quiet, as_json)
    no_progress()
    done = run_export(adapter, to, out, stages, fold, dtype, base, trust_remote_code, device)
    for note in done.notes:
        output.reporter.warn(note)
    if done.difference is not None:
        output.note(f"logits differ by at most {done.difference:.3g} from the adapted model's")
    beside = f"   beside the model: {', '.join(done.beside)} in {out / 'adapter'}" if done.beside else ""
    output.last(f"{done.format}: {out}{beside}")
    output.document(
        ExportDocument,
        output=str(out),
        format=done.format,
        adapters=done.adapters,
        beside=done.beside,
        folded=done.folded,
        difference=done.difference,
    )
