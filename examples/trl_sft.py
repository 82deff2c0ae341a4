"""ReFT with TRL's SFTTrainer. Run: python examples/trl_sft.py [MODEL] [OUTPUT]

MODEL is a base model, which gets a new ReFT adapter (default: a tiny random one, seconds, nothing to download), or a
run of heft, whose stage `fine` is trained on. The loss is the mean of −ln p over the completions' tokens.
"""

import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl_models import OPTIONS, to_train

ROWS = [
    {"prompt": "Question: is rain wet?\nAnswer:", "completion": " yes"},
    {"prompt": "Question: can a stone swim?\nAnswer:", "completion": " no"},
    {"prompt": "Question: is the moon made of cheese?\nAnswer:", "completion": " no, of rock"},
    {"prompt": "Question: do birds lay eggs?\nAnswer:", "completion": " yes"},
]


def trainer(*model: str, output: str = "trl-sft", **options) -> SFTTrainer:
    """The trainer, ready to train; `options` are further ones of its config."""
    adapted, tokenizer, config = to_train(*model)
    return SFTTrainer(
        adapted,
        args=SFTConfig(output_dir=output, **(OPTIONS | options)),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        peft_config=config,
    )


if __name__ == "__main__":
    output = sys.argv[2] if len(sys.argv) > 2 else "trl-sft"
    run = trainer(*sys.argv[1:2], output=output)
    run.train()
    run.save_model(output)
