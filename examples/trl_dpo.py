"""ReFT with TRL's DPOTrainer. Run: python examples/trl_dpo.py [MODEL] [OUTPUT]

MODEL is a base model, which gets a new ReFT adapter and is itself the reference (default: a tiny random one, seconds,
nothing to download), or a run of heft, whose stage `fine` is trained on; the reference is then the run as it was, which
is loaded a second time.
"""

import sys

from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl_models import OPTIONS, is_adapter, to_train

import heft

ROWS = [
    {"prompt": "Question: is rain wet?\nAnswer:", "chosen": " yes", "rejected": " who knows"},
    {"prompt": "Question: can a stone swim?\nAnswer:", "chosen": " no", "rejected": " yes, on Sundays"},
    {"prompt": "Question: is the moon made of cheese?\nAnswer:", "chosen": " no, of rock", "rejected": " no"},
    {"prompt": "Question: do birds lay eggs?\nAnswer:", "chosen": " yes", "rejected": " no"},
]


def trainer(*model: str, output: str = "trl-dpo", **options) -> DPOTrainer:
    """The trainer, ready to train; `options` are further ones of its config."""
    adapted, tokenizer, config = to_train(*model)
    return DPOTrainer(
        adapted,
        ref_model=heft.load(*model)[0] if model and is_adapter(*model) else None,
        args=DPOConfig(output_dir=output, **(OPTIONS | options)),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        peft_config=config,
    )


if __name__ == "__main__":
    output = sys.argv[2] if len(sys.argv) > 2 else "trl-dpo"
    run = trainer(*sys.argv[1:2], output=output)
    run.train()
    run.save_model(output)
