"""adapters' LoReFT with transformers' Trainer. Its suffix counts from the end of the input, answer included.

So rows whose answers have one token are edited at the same prompt tokens as by heft with positions one shorter; the
edit of the answer's own token reaches no loss.
"""

from same_start import loreft_layers
from trainer_tools import arguments, feature, load_model, tokenizer, trainer_handlers
from worker import read_rows, serve


def load(job: dict) -> dict:
    from transformers import DataCollatorForSeq2Seq

    import adapters

    lengths = {len(row["answer"]) for row in read_rows(job)}
    if len(lengths) != 1:
        raise ValueError(f"adapters cannot edit the same tokens where answers have different lengths: {lengths}")
    model = load_model(job)
    adapters.init(model)
    config = adapters.LoReftConfig(
        r=job["rank"],
        prefix_positions=job["first"],
        suffix_positions=job["last"] + lengths.pop(),
        tied_weights=True,
        dropout=0.0,
    )
    model.add_adapter("fine", config=config)
    model.train_adapter("fine")
    _fill(model, job)
    model.to(job["device"])
    collate = DataCollatorForSeq2Seq(tokenizer(job))

    def make_trainer(rows: list[dict], folder: str, epochs: int):
        return adapters.AdapterTrainer(
            model=model,
            args=arguments(job, folder, epochs),
            train_dataset=[feature(row) for row in rows],
            data_collator=collate,
        )

    return trainer_handlers(job, make_trainer)


def _fill(model, job: dict) -> None:
    import torch

    units = [block.reft_layer.refts["fine"].units[0] for block in model.model.layers]
    with torch.no_grad():
        for unit, values in zip(units, loreft_layers(len(units), model.config.hidden_size, job["rank"]), strict=True):
            unit.learned_source.weight.copy_(values.weight)
            unit.learned_source.bias.copy_(values.bias)
            unit.projection.weight = values.rotation.to(unit.learned_source.weight.device)


if __name__ == "__main__":
    serve(load)
