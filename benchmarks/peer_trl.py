"""TRL's SFTTrainer on PEFT's LoRA, loss on the completion only, without its gradient checkpointing (slower)."""

from same_start import fill_lora
from trainer_tools import arguments, load_model, tokenizer, trainer_handlers
from worker import serve


def load(job: dict) -> dict:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    config = LoraConfig(task_type="CAUSAL_LM", r=job["rank"], lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(load_model(job), config)
    fill_lora(model)
    reader = tokenizer(job)
    own = {"gradient_checkpointing": False, "completion_only_loss": True}

    def make_trainer(rows: list[dict], folder: str, epochs: int) -> SFTTrainer:
        return SFTTrainer(
            model=model,
            args=arguments(job, folder, epochs, SFTConfig, **own),
            train_dataset=Dataset.from_list([_completion(row) for row in rows]),
            processing_class=reader,
        )

    return trainer_handlers(job, make_trainer)


def _completion(row: dict) -> dict:
    return {
        "input_ids": row["prompt"] + row["answer"],
        "completion_mask": [0] * len(row["prompt"]) + [1] * len(row["answer"]),
    }


if __name__ == "__main__":
    serve(load)
