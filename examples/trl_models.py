"""What the examples with TRL train: a new ReFT adapter on a base model, or a stage of a run of heft."""

from pathlib import Path

import torch
from peft import PeftConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

import heft
from heft.builtin import TINY, byte_tokenizer, tiny_llama
from heft.reft import ReftConfig

OPTIONS = {
    "per_device_train_batch_size": 4,
    "max_steps": 20,
    "learning_rate": 1e-3,
    "report_to": "none",
    "bf16": torch.cuda.is_available(),  # TRL's default is true, which transformers refuses on some CPUs
}
"""Of the trainers' configs."""


def is_adapter(name: str) -> bool:
    """Whether this is a run of heft or its adapter directory."""
    return any((Path(name) / file).is_file() for file in ("heft.json", "adapter/heft.json"))


def to_train(name: str = TINY, stage: str = "fine", positions: str = "f2+l2"):
    """Model, tokenizer, and the `peft_config` that TRL's trainers take.

    A base model (a Hub id, a folder, or the tiny random one) gets a new ReFT adapter, which the trainer attaches. Of a
    run of heft, the named stage is trained on: all else is frozen and active, and there is no further config.
    """
    if is_adapter(name):
        model, tokenizer = heft.load(name, trainable=stage)
        return model, tokenizer, None
    config: PeftConfig = ReftConfig(task_type="CAUSAL_LM", rank=4, positions=positions)
    if name == TINY:
        return tiny_llama(), byte_tokenizer(), config
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(name), tokenizer, config
