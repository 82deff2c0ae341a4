"""pyreft's LoReFT on block outputs, its own Trainer and collator; edited positions are given as numbers."""

import time

from same_start import loreft_layers
from trainer_tools import arguments, feature, load_model, tokenizer, trainer_handlers
from worker import serve, timed


def load(job: dict) -> dict:
    import pyreft
    from transformers import DataCollatorForSeq2Seq

    model = load_model(job)
    reft = pyreft.get_reft_model(model, _config(model, job))
    reft.set_device(job["device"])
    _fill(reft, model, job)
    collate = pyreft.ReftDataCollator(DataCollatorForSeq2Seq(tokenizer(job), label_pad_token_id=-100))

    def make_trainer(rows: list[dict], folder: str, epochs: int):
        return pyreft.ReftTrainerForCausalLM(
            model=reft,
            args=arguments(job, folder, epochs, remove_unused_columns=False),
            train_dataset=[_located(row, job, model.config.num_hidden_layers) for row in rows],
            data_collator=collate,
        )

    handlers = trainer_handlers(job, make_trainer)
    handlers["orthonormal"] = lambda request: _orthonormal(reft, job, request["repeats"])
    return handlers


def _config(model, job: dict):
    import pyreft
    import torch

    d = model.config.hidden_size
    options = {"embed_dim": d, "low_rank_dimension": job["rank"], "dropout": 0.0, "dtype": torch.float32}
    return pyreft.ReftConfig(
        representations=[
            {
                "layer": layer,
                "component": "block_output",
                "low_rank_dimension": job["rank"],
                "intervention": pyreft.LoreftIntervention(**options),
            }
            for layer in range(model.config.num_hidden_layers)
        ]
    )


def _interventions(reft) -> list:
    """One a layer, in the order of the layers (an entry is the intervention, or it and its hook)."""
    entries = reft.interventions.values()
    return [entry[0] if isinstance(entry, list | tuple) else entry for entry in entries]


def _fill(reft, model, job: dict) -> None:
    import torch

    start = loreft_layers(model.config.num_hidden_layers, model.config.hidden_size, job["rank"])
    with torch.no_grad():
        for intervention, values in zip(_interventions(reft), start, strict=True):
            device = intervention.learned_source.weight.device
            intervention.learned_source.weight.copy_(values.weight)
            intervention.learned_source.bias.copy_(values.bias)
            intervention.rotate_layer.weight = values.rotation.T.contiguous().to(device)


def _located(row: dict, job: dict, interventions: int) -> dict:
    """A row with the numbers of its edited tokens, (interventions, positions), the same for each layer."""
    import torch

    length = len(row["prompt"])
    positions = [*range(job["first"]), *range(length - job["last"], length)]
    values = {key: torch.tensor(value) for key, value in feature(row).items()}
    return {**values, "intervention_locations": torch.tensor([positions] * interventions)}


def _orthonormal(reft, job: dict, repeats: int) -> dict:
    """Seconds of all layers' R, forward and backward, as one training step has it."""
    layers = [intervention.rotate_layer for intervention in _interventions(reft)]

    def once() -> None:
        sum(layer.weight.sum() for layer in layers).backward()

    once()
    times = [timed(once, job["device"])[0] for _ in range(repeats)]
    return {"seconds": times, "at": time.time()}


if __name__ == "__main__":
    serve(load)
