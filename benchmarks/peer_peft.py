"""PEFT's LoRA, trained by transformers' Trainer as both come: all logits, batches in random order, padded."""

from same_start import fill_lora
from trainer_tools import arguments, feature, load_model, tokenizer, trainer_handlers
from worker import serve


def load(job: dict) -> dict:
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer

    config = LoraConfig(task_type="CAUSAL_LM", r=job["rank"], lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(load_model(job), config)
    if not job.get("unchanged_at_first"):
        fill_lora(model)
    collate = DataCollatorForSeq2Seq(tokenizer(job))

    def make_trainer(rows: list[dict], folder: str, epochs: int) -> Trainer:
        return Trainer(
            model=model,
            args=arguments(job, folder, epochs),
            train_dataset=[feature(row) for row in rows],
            data_collator=collate,
        )

    return trainer_handlers(job, make_trainer)


if __name__ == "__main__":
    serve(load)
