"""ReFT with TRL's GRPOTrainer. Run: python examples/trl_grpo.py [MODEL] [OUTPUT]

MODEL is a base model, which gets a new ReFT adapter (default: a tiny random one, seconds, nothing to download), or a
run of heft, whose stage `fine` is trained on. The reward is for short answers.
"""

import sys

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl_models import OPTIONS, to_train

ROWS = [
    {"prompt": "Question: is rain wet?\nAnswer:"},
    {"prompt": "Question: can a stone swim?\nAnswer:"},
    {"prompt": "Question: is the moon made of cheese?\nAnswer:"},
    {"prompt": "Question: do birds lay eggs?\nAnswer:"},
]


def short(completions: list[str], **_) -> list[float]:
    """The reward: 0 for no text, −1 for each letter of it."""
    return [-float(len(text)) for text in completions]


def trainer(*model: str, output: str = "trl-grpo", **options) -> GRPOTrainer:
    """The trainer, ready to train; `options` are further ones of its config."""
    adapted, tokenizer, config = to_train(*model)
    given = OPTIONS | {"num_generations": 4, "max_completion_length": 12}
    return GRPOTrainer(
        adapted,
        reward_funcs=short,
        args=GRPOConfig(output_dir=output, **(given | options)),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        peft_config=config,
    )


if __name__ == "__main__":
    output = sys.argv[2] if len(sys.argv) > 2 else "trl-grpo"
    run = trainer(*sys.argv[1:2], output=output)
    run.train()
    run.save_model(output)
