"""A model for transformers: LoRA merged into the base's weights, ReFT folded in or in a folder beside them.

    OUT/
      config.json, model.safetensors, tokenizer.json, …      `AutoModelForCausalLM.from_pretrained(OUT)`
      adapter/heft.json, adapter/<name>/                     the ReFT adapters that are not folded, if there are any

`heft.load(OUT)` and the commands take OUT as a run: the merged model with what is beside it.
"""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from heft.adapters.detach import detach
from heft.adapters.directory import Loaded
from heft.adapters.load import end_as_trained
from heft.adapters.manifest import AdapterManifest
from heft.adapters.safety import CONFIG, WEIGHTS
from heft.exchange.checking import Before
from heft.exchange.folding import FoldPlan, edits_of, fold, linear_of, plan_folding
from heft.exchange.merging import in_float32, merge_lora
from heft.exchange.subject import Subject
from heft.models.fingerprints import fingerprint, tokenizer_fingerprint
from heft.storage.atomic import sha256_of, to_json


def merged(subject: Subject, loaded: Loaded, folds: bool) -> tuple[FoldPlan, float]:
    """Merge LoRA, fold what folds if it is wanted, and compare; what is left on the model is what stays beside it.

    Returns:
        What was folded and why the rest was not, and how far logits are from the adapted model's.
    """
    model = loaded.model
    before = Before(model, loaded.tokenizer, loaded.manifest)
    plan = plan_folding(model) if folds else FoldPlan({}, [], {})
    with ExitStack() as until_both:  # so that weights are rounded once
        for linear in {linear for name in plan.folds for linear in edits_of(model, plan, name)}:
            until_both.enter_context(in_float32(linear_of(model, linear)))
        merge_lora(model, list(subject.loras))
        fold(model, plan)
    before.require_same(model, rounded=model.dtype != torch.float32)
    return plan, before.difference


def write_model(folder: Path, subject: Subject, loaded: Loaded, place: Path) -> list[str]:
    """Write a merged model with its tokenizer, and the adapters that it still carries beside it.

    Args:
        folder: to fill.
        subject: what is exported.
        loaded: its model after `merged`, which is without adapters afterwards.
        place: where `folder` will be, for the adapters' own files.

    Returns:
        The names of the adapters beside the model.
    """
    model = loaded.model
    beside = [name for name in subject.refts if name in model.peft_config]
    write_merged(folder, loaded)
    if beside:
        _write_beside(folder / "adapter", subject, loaded, beside, place)
    return beside


def write_merged(folder: Path, loaded: Loaded) -> None:
    """Write a model after `merged` with its tokenizer, without the adapters that it still carries."""
    model = loaded.model
    end_as_trained(loaded)
    detach(model, list(model.peft_config))
    del model.peft_config
    model._hf_peft_config_loaded = False
    _save(model, folder)
    loaded.tokenizer.save_pretrained(folder)


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Write a model with its own generation settings, whatever they are.

    transformers refuses some that a base may come with, such as a temperature without `do_sample`, once it sees a
    change in them (`end_as_trained`).
    """
    settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = settings
    if settings is not None:
        settings.to_json_file(folder / GENERATION_CONFIG_NAME, keys_to_pop=["compile_config"])


def _write_beside(folder: Path, subject: Subject, loaded: Loaded, names: list[str], place: Path) -> None:
    """An adapter directory of ReFT adapters whose base is the merged model in the folder above."""
    folder.mkdir()
    entries = []
    for entry in subject.manifest.adapters:
        if entry.name not in names:
            continue
        own = folder / entry.name
        own.mkdir()
        shutil.copyfile(subject.folder(entry.name) / WEIGHTS, own / WEIGHTS)
        values = json.loads((subject.folder(entry.name) / CONFIG).read_text(encoding="utf-8"))
        values |= {"base_model_name_or_path": str(place.absolute()), "revision": None}
        (own / CONFIG).write_text(to_json(values), encoding="utf-8")
        hashes = {path.name: sha256_of(path) for path in sorted(own.iterdir())}
        entries.append(entry.model_copy(update={"sha256": hashes}))
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    chat = subject.manifest.task.get("chat_template") is True
    manifest: AdapterManifest = subject.manifest.model_copy(
        update={
            "model": subject.model.model_copy(update={"name": str(place.absolute()), "revision": None, "dtype": dtype}),
            "base_folder": str(place.absolute()),
            "base_fingerprint": fingerprint(loaded.model),
            "tokenizer_fingerprint": tokenizer_fingerprint(loaded.tokenizer, chat),
            "adapters": entries,
        }
    )
    (folder / "heft.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
