"""heft itself: stages, sweeps, evaluation, and what is measured of its parts."""

import itertools
import math
import time

from same_start import fill_lora, loreft_layers
from trainer_tools import CHECK_STEPS, LEARNING_RATES
from worker import Handler, block, read_rows, serve, timed


def load(job: dict) -> dict[str, Handler]:
    from heft.models.load import load_base, quiet
    from heft.recipe.model import ModelSettings

    quiet()
    dtype = job.get("dtype") or ("bfloat16" if job["device"] == "cuda" else "float32")
    attention = job.get("attention", "auto")
    base = load_base(ModelSettings(name=job["model"], dtype=dtype, device=job["device"], attention=attention))
    rows = [_encoded(number, row) for number, row in enumerate(read_rows(job))]
    if job["stage"] == "evaluation":
        return _evaluation(job, base, rows)
    if "grid" in job:
        return _sweep(job, base, rows)
    if "then" in job:
        return _both_stages(job, base, rows)
    if job["stage"] == "machine":
        return {"matmul": lambda request: _matmul(job), "orthonormal": lambda request: _orthonormal(job, base, request)}
    return _training(job, base, rows)


def _encoded(number: int, row: dict):
    """heft's row of given token ids; the text, which nothing here reads, is a stand-in."""
    from heft.data.encode import EncodedExample
    from heft.tasks.example import Example

    choices = tuple(f" {index}" for index in range(len(row["choices"])))
    gold = row["choices"].index(row["answer"])
    example = Example(f"{number:016x}", "given as token ids", choices, gold, choices[gold], group=row["group"])
    return EncodedExample(example, tuple(row["prompt"]), tuple(map(tuple, row["choices"])), tuple(row["answer"]), 0)


def _training(job: dict, base, rows: list) -> dict[str, Handler]:
    from heft.adapters.attach import attach

    attach(base.model, job["stage"], _stage(job, 1))
    _fill(base.model, job)
    own_epochs = job.get("own_epochs", 1)
    return {
        "check": lambda request: _train(job, base, rows[: job["batch_size"]], CHECK_STEPS),
        "run": lambda request: _train(job, base, block(rows, job, request), own_epochs),
    }


def _stage(job: dict, epochs: int, **own):
    from heft.recipe.recipe import LoraStage, ReftStage

    common = {"rank": job["rank"], "epochs": epochs, "batch_size": job["batch_size"], "bf16": job["device"] == "cuda"}
    common["learning_rate"] = LEARNING_RATES[job["stage"]]
    if job["stage"] == "coarse":
        return LoraStage(method="lora", alpha=16, **job.get("settings", {}), **(common | own))
    own = job.get("settings", {}) | own
    if "positions" not in own:
        own["positions"] = "+".join(f"{side[0]}{job[side]}" for side in ("first", "last") if job[side])
    return ReftStage(method="reft", **(common | own))


def _fill(model, job: dict) -> None:
    """Give trained weights seeded values, but where the two sides act on other tokens and begin with no change."""
    if job.get("unchanged_at_first"):
        return
    if job["stage"] == "coarse":
        fill_lora(model)
    else:
        _fill_loreft(model, job["rank"])


def _fill_loreft(model, rank: int) -> None:
    """Give every active LoReFT of this rank the seeded values."""
    import torch

    from heft.reft.layer import layers_of

    layers = list(layers_of(model).values())
    start = loreft_layers(len(layers), model.config.hidden_size, rank)
    with torch.no_grad():
        for layer, values in zip(layers, start, strict=True):
            for _, _, unit in layer.active():
                if len(unit.bias) == rank:
                    unit.weight.copy_(values.weight)
                    unit.bias.copy_(values.bias)
                    unit.rotation.copy_(values.rotation)


def _both_stages(job: dict, base, rows: list) -> dict[str, Handler]:
    """One epoch of LoRA, then ReFT on top of it, whose settings are the job's `then`, behind one prefix."""
    from heft.adapters.attach import attach, finish
    from heft.adapters.detach import gone_afterwards
    from heft.edits.positions import parse_positions
    from heft.training.reuse.activation_cache import ROWS_PER_PASS
    from heft.training.reuse.shared import RowPrefixes, SharedPrefix, StagePrefixes

    then = job["then"]
    later = {**job, "stage": "fine", "settings": {**job["settings"], "positions": then["positions"]}}
    start = parse_positions(job["settings"]["positions"]).reach_back()
    shared = SharedPrefix(("coarse", "fine"), start, ROWS_PER_PASS)

    def train(chosen: list, epochs: int, then_epochs: int) -> dict:
        prefixes = StagePrefixes(shared, RowPrefixes(chosen, start, ROWS_PER_PASS))
        found = []
        begin = time.perf_counter()
        with gone_afterwards(base.model):
            for each, count in ((job, epochs), (later, then_epochs)):
                attached = attach(base.model, each["stage"], _stage(each, count))
                found.append(_train(each, base, chosen, count, prefixes))
                finish(base.model, attached)
        seconds = time.perf_counter() - begin
        return {
            "seconds": seconds,
            "examples": (epochs + then_epochs) * len(chosen),
            "epochs": epochs + then_epochs,
            "losses": [loss for each in found for loss in each["losses"]],
        }

    return {
        "check": lambda request: train(rows[: job["batch_size"]], CHECK_STEPS, 1),
        "run": lambda request: train(block(rows, job, request), 1, then["epochs"]),
    }


def _train(job: dict, base, rows: list, epochs: int, prefixes=None) -> dict:
    """Train a stage over the rows; seconds in all and of each epoch, first and last with what is around them."""
    from heft.runtime.reporter import Reporter
    from heft.training.stage import train_stage

    losses, ends = [], []
    steps_an_epoch = math.ceil(len(rows) / job["batch_size"])

    class Listener(Reporter):
        def step(self, what: str, done: int, total: int) -> None:
            if done % steps_an_epoch == 0:
                ends.append(time.perf_counter())

        def metrics(self, values: dict) -> None:
            losses.append(values["loss"])

    begin = time.perf_counter()
    seconds, _ = timed(
        lambda: train_stage(
            base.model,
            job["stage"],
            _stage(job, epochs),
            rows,
            pad_id=base.tokenizer.pad_token_id,
            seed=0,
            reporter=Listener(),
            attention=base.settings.attention,
            prefixes=prefixes,
        ),
        job["device"],
    )
    ends[-1] = begin + seconds
    epoch_seconds = [end - start for start, end in zip([begin, *ends], ends, strict=False)]
    examples = epochs * len(rows)
    return {
        "seconds": seconds,
        "examples": examples,
        "epochs": epochs,
        "steps_an_epoch": steps_an_epoch,
        "epoch_seconds": epoch_seconds,
        "losses": losses,
    }


def _sweep(job: dict, base, rows: list) -> dict[str, Handler]:
    """Every combination of the job's grid side by side; losses are those of the first, which has the job's rank."""
    from heft.recipe.grid import Configuration
    from heft.runtime.reporter import Reporter
    from heft.sweep.arrange import side_by_side
    from heft.training.batches import TrainingData

    def train(chosen: list, epochs: int) -> dict:
        combinations = [
            dict(zip(job["grid"], values, strict=True)) for values in itertools.product(*job["grid"].values())
        ]
        tried = [
            Configuration(f"c{number:02}", values, _stage(job, epochs, **values))
            for number, values in enumerate(combinations)
        ]
        seeds = [values["seed"] for values in combinations]
        losses = []

        def run() -> None:
            data = TrainingData(chosen, rows[-1:], base.tokenizer.pad_token_id)
            with side_by_side(base, tried, data, seeds, job["tokens_per_pass"], Reporter()) as training:
                _fill(base.model, job)
                training.train("sweep", Reporter())
                losses.extend(training.learners[0].losses)

        seconds, _ = timed(run, job["device"])
        return {"seconds": seconds, "examples": epochs * len(chosen), "epochs": epochs, "losses": losses}

    return {
        "check": lambda request: train(rows[: job["batch_size"]], CHECK_STEPS),
        "run": lambda request: train(block(rows, job, request), job["own_epochs"]),
    }


def _evaluation(job: dict, base, rows: list) -> dict[str, Handler]:
    from heft.evaluation.evaluator import answer_examples
    from heft.recipe.recipe import EvaluationSettings
    from heft.runtime.reporter import Reporter
    from heft.tasks.boolq import Boolq

    settings, task = EvaluationSettings(batch_size=job["batch_size"]), Boolq(Boolq.settings_type())

    def run(chosen: list) -> dict:
        about = (base.tokenizer, task, chosen, settings, Reporter(), "evaluation")
        seconds, answers = timed(lambda: answer_examples(base.model, *about), job["device"])
        flat = [score for answer in answers for score in answer.log_likelihoods]
        return {"seconds": seconds, "examples": len(chosen), "epochs": 1, "losses": flat}

    return {
        "check": lambda request: run(rows[: job["batch_size"]]),
        "run": lambda request: run(block(rows, job, request)),
    }


def _matmul(job: dict) -> dict:
    """Best rate of torch's matrix products, over the shapes of the model's and one large square; oneDNN's beside it."""
    import torch

    from heft.models.frozen_linear import is_faster_in_onednn, product

    dtype = torch.bfloat16 if job["device"] == "cuda" else torch.float32
    shapes = [(2048, 576, 576), (2048, 576, 1536), (2048, 1536, 576), (2048, 2048, 2048)]
    if job["device"] == "cuda":
        shapes.append((8192, 8192, 8192))
    rates, in_onednn = {}, {}
    for rows, inner, columns in shapes:
        a = torch.randn(rows, inner, dtype=dtype, device=job["device"])
        b = torch.randn(columns, inner, dtype=dtype, device=job["device"])
        a @ b.T
        seconds = min(timed(lambda a=a, b=b: [a @ b.T for _ in range(10)], job["device"])[0] for _ in range(5)) / 10
        rates[f"{rows}x{inner}x{columns}"] = 2 * rows * inner * columns / seconds
        if is_faster_in_onednn(a, b):
            seconds = min(
                timed(lambda a=a, b=b: [product(a, b) for _ in range(10)], job["device"])[0] for _ in range(5)
            )
            in_onednn[f"{rows}x{inner}x{columns} in oneDNN"] = 20 * rows * inner * columns / seconds
    return {"flops_per_second": max(rates.values()), "rates": rates | in_onednn}


def _orthonormal(job: dict, base, request: dict) -> dict:
    """Seconds of all layers' R, forward and backward, in one stacked call as a training step has it."""
    import torch

    from heft.edits.arithmetic import orthonormal_rows

    config = base.model.config
    shape = (config.num_hidden_layers, request["rank"], config.hidden_size)
    raw = torch.randn(*shape, device=job["device"], requires_grad=True)

    def once() -> None:
        orthonormal_rows(raw).sum().backward()

    for _ in range(3):
        once()
    return {"seconds": [timed(once, job["device"])[0] for _ in range(request["repeats"])]}


if __name__ == "__main__":
    serve(load)
