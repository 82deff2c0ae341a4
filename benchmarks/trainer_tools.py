"""What the peers that train with transformers' Trainer share, whatever its version: rows, arguments, timed blocks."""

import inspect
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from worker import Handler, block, read_rows, timed

IGNORED = -100
LEARNING_RATES = {"coarse": 2e-4, "fine": 1e-3}
CHECK_STEPS = 2


def tokenizer(job: dict):
    """The model's tokenizer, made from its tokenizer.json alone, which every transformers reads; pads on the right."""
    from transformers import PreTrainedTokenizerFast

    config = json.loads((Path(job["model"]) / "config.json").read_text())
    made = PreTrainedTokenizerFast(tokenizer_file=str(Path(job["model"]) / "tokenizer.json"), padding_side="right")
    made.pad_token = made.convert_ids_to_tokens(config["pad_token_id"])
    made.eos_token = made.convert_ids_to_tokens(config["eos_token_id"])
    return made


def load_model(job: dict):
    """The base model in the job's precision, on its device; scaled dot-product attention, as heft has it."""
    import torch
    import transformers

    dtype = torch.bfloat16 if job["device"] == "cuda" else torch.float32
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    options = {name: dtype, "attn_implementation": "sdpa"}
    return transformers.AutoModelForCausalLM.from_pretrained(job["model"], **options).to(job["device"])


def feature(row: dict) -> dict:
    """A row with its answer, labels on the answer alone."""
    ids = row["prompt"] + row["answer"]
    labels = [IGNORED] * len(row["prompt"]) + row["answer"]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def arguments(job: dict, folder: str, epochs: int, kind: type | None = None, **own):
    """Training arguments: the library's defaults but for length, batch, learning rate, and what writes or draws."""
    from transformers import TrainingArguments

    kind = kind or TrainingArguments
    values = {
        "output_dir": folder,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": job["batch_size"],
        "learning_rate": LEARNING_RATES[job["stage"]],
        "bf16": job["device"] == "cuda",
        "use_cpu": job["device"] == "cpu",
        "dataloader_pin_memory": job["device"] == "cuda",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        **own,
    }
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in values.items() if name in known or name in own})


def trainer_handlers(job: dict, make_trainer: Callable[[list[dict], str, int], object]) -> dict[str, Handler]:
    """`check` and `run` for a peer that trains with a Trainer.

    Args:
        job: what the process was started with.
        make_trainer: from rows, a scratch folder and a number of epochs, a trainer that is ready to `train`.
    """
    rows = read_rows(job)

    def train(chosen: list[dict], epochs: int) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            seconds, trainer = timed(lambda: _trained(make_trainer(chosen, folder, epochs)), job["device"])
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return {"seconds": seconds, "examples": epochs * len(chosen), "epochs": epochs, "losses": losses}

    return {
        "check": lambda request: train(rows[: job["batch_size"]], CHECK_STEPS),
        "run": lambda request: train(block(rows, job, request), job.get("peer_epochs", 1)),
    }


def _trained(trainer):
    trainer.train()
    return trainer
