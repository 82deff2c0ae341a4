"""What is compared with what, why the comparison is fair, and what it leaves out."""

from dataclasses import dataclass, field
from statistics import median

FINE_EPOCHS = 20
FINE_ROWS = 256
"""Size of the whole fine-stage run that the issue speaks of."""
SHORTER_BATCHES = "Blocks are short, so heft's batches of like length are picked out of one block's rows only"


@dataclass(frozen=True)
class Comparison:
    """heft against a peer (or against heft itself with other settings), the same rows in each block.

    Attributes:
        name: for `--only`.
        work: what both do, in words.
        peer: the other side.
        against: the other side, in words.
        aim: ratio to reach at least; with `takes_longer`, at most.
        job: what both sides are told.
        own: what heft alone is told.
        peer_job: what the other side alone is told.
        later_epochs: whether times are of the epochs after the first, which fills the cache.
        whole_run: whether times are of 20 epochs on 256 rows (see `cost_seconds`), not of a row.
        takes_longer: whether the ratio is heft's time over the other's, where heft does more in it.
        flops: how floating-point operations are counted: coarse, plain, prefix, kept or none.
        leaves_out: what the figure does not say.
    """

    name: str
    work: str
    peer: str
    against: str
    aim: float | None
    job: dict
    leaves_out: str
    own: dict = field(default_factory=dict)
    peer_job: dict = field(default_factory=dict)
    whole_run: bool = False
    later_epochs: bool = False
    takes_longer: bool = False
    flops: str = "none"


COARSE = {"stage": "coarse", "rank": 8, "rows": "train"}
LAST = {"stage": "fine", "rank": 8, "rows": "train", "first": 0, "last": 7}
BOTH_ENDS = LAST | {"first": 7}
NOTHING_KEPT = {"settings": {"cache": "off"}}
PLAIN = {"settings": {"reuse": False}}
SWEEP_EPOCHS = 3
GRID = {"rank": [8, 4], "learning_rate": [1e-3, 5e-4, 2e-3, 4e-3], "seed": [0, 1]}
RATES = [1e-3, 3e-4, 5e-4, 7e-4, 1.4e-3, 2e-3, 2.8e-3, 4e-3]
GRID_OF_64 = {
    "rank": [8, 4],
    "learning_rate": RATES,
    "warmup": [0.1, 0.0],
    "schedule": ["linear", "cosine"],
    "seed": [0],
}
GRID_OF_LORA = {"rank": [8, 4], "learning_rate": RATES, "seed": [0]}

FUSED = {"settings": {"fused": True}}
PEFTS_LAYER = {"settings": {"fused": False}}
KEPT = {"settings": {"cache": "memory"}, "own_epochs": 3}
AS_BEFORE = {"settings": {"cache": "memory", "fused": False}, "own_epochs": 3}
SAME_LOOP = "Both sides are heft, with batches of like length and logits of answers only"

COMPARISONS = (
    Comparison(
        "coarse_peft",
        "coarse, LoRA r 8 on all linear layers",
        "peft",
        "PEFT + Trainer, defaults",
        2.0,
        COARSE,
        "The Trainer's defaults compute logits for every token and pad rows in random order; both can be had better by"
        f" hand. {SHORTER_BATCHES}.",
        flops="coarse",
    ),
    Comparison(
        "coarse_trl",
        "coarse, LoRA r 8 on all linear layers",
        "trl",
        "TRL SFTTrainer, completion only",
        1.3,
        COARSE,
        "TRL's default gradient checkpointing, which costs it time and saves memory, is off; its packing, which changes"
        f" what a batch is, is not used. {SHORTER_BATCHES}.",
        flops="coarse",
    ),
    Comparison(
        "coarse_l8",
        f"coarse, LoRA r 8, l8+, prefixes cached, {FINE_EPOCHS} epochs on {FINE_ROWS} rows",
        "heft",
        "own LoRA of all tokens",
        8.0,
        COARSE | {"unchanged_at_first": True},
        "Both sides are heft. What they train differs, and so does what it reaches. The whole run is worked out from"
        " three epochs: the first, which fills the cache, once, and 19 times the later ones.",
        own={"settings": {"cache": "memory", "positions": "l8+"}, "own_epochs": 3},
        peer_job={"own_epochs": 3},
        whole_run=True,
    ),
    Comparison(
        "both_stages",
        "LoRA l8+ 1 epoch, then LoReFT l4+ 2 epochs, r 8, behind one cached prefix",
        "peft",
        "PEFT + Trainer, LoRA of all tokens, 3 epochs, defaults",
        5.0,
        COARSE | {"unchanged_at_first": True},
        "What both train differs, and so does what it reaches. Prefixes are computed in the time, once for both stages."
        f" The Trainer's defaults are as above. {SHORTER_BATCHES}.",
        own={"then": {"epochs": 2, "positions": "l4+"}, "settings": {"cache": "memory", "positions": "l8+"}},
        peer_job={"peer_epochs": 3},
    ),
    Comparison(
        "lora_float32",
        "coarse in float32, LoRA fused",
        "heft",
        "the same with PEFT's own layer (fused: false)",
        None,
        COARSE,
        f"{SAME_LOOP}.",
        own=FUSED,
        peer_job=PEFTS_LAYER,
        flops="coarse",
    ),
    Comparison(
        "lora_bfloat16",
        "coarse in bfloat16, LoRA fused",
        "heft",
        "the same with PEFT's own layer (fused: false)",
        None,
        COARSE | {"dtype": "bfloat16"},
        f"{SAME_LOOP}, and the same attention.",
        own=FUSED,
        peer_job=PEFTS_LAYER,
        flops="coarse",
    ),
    Comparison(
        "lora_auto",
        "coarse in bfloat16, LoRA fused",
        "heft",
        "float32 with PEFT's own layer",
        2.0,
        COARSE,
        f"{SAME_LOOP}. What dtype auto brings where the processor multiplies in bfloat16; elsewhere bfloat16 is slow.",
        own=FUSED | {"dtype": "bfloat16"},
        peer_job=PEFTS_LAYER | {"dtype": "float32"},
        flops="coarse",
    ),
    Comparison(
        "fine_whole",
        "fine, l7 in all layers, 20 epochs on 256 rows",
        "pyreft",
        "pyreft, same interventions",
        20.0,
        LAST,
        "The whole run is worked out from a few epochs on fewer rows, unless --full is given: heft's first epoch, which"
        " fills the cache, once, and 19 times its later ones; pyreft's epoch 20 times; both times the share of rows."
        " The kept prefixes take memory (in the table of memory), and more epochs or rows change the ratio.",
        own={"settings": {"cache": "memory"}, "own_epochs": 3},
        whole_run=True,
        flops="kept",
    ),
    Comparison(
        "cached_step",
        "fine, l7 in all layers, prefixes cached, read in place; frozen layers in oneDNN where that is faster",
        "heft",
        "the cached step before: prefixes copied (attention: sdpa), torch's products (fused: false)",
        1.6,
        LAST,
        "Epochs after the first, which fills the cache.",
        own=KEPT,
        peer_job=AS_BEFORE | {"attention": "sdpa"},
        later_epochs=True,
        flops="kept",
    ),
    Comparison(
        "cached_attention",
        "fine, l7 in all layers, prefixes cached and read in place",
        "heft",
        "the same, prefixes copied (attention: sdpa)",
        None,
        LAST,
        "Epochs after the first. Both sides have the same products of frozen layers.",
        own=KEPT,
        peer_job=KEPT | {"attention": "sdpa"},
        later_epochs=True,
    ),
    Comparison(
        "cached_bfloat16",
        "fine in bfloat16, l7 in all layers, prefixes cached and read in place",
        "heft",
        "the same, prefixes copied (attention: eager)",
        None,
        LAST | {"dtype": "bfloat16"},
        "Epochs after the first.",
        own=KEPT,
        peer_job=KEPT | {"attention": "eager"},
        later_epochs=True,
    ),
    Comparison(
        "fine_nothing_kept",
        "fine, l7 in all layers, one epoch, nothing kept",
        "heft",
        "own plain path",
        1.6,
        LAST,
        "Both sides are heft, with batches of like length and logits of answers only.",
        own=NOTHING_KEPT,
        peer_job=PLAIN,
        flops="prefix",
    ),
    Comparison(
        "fine_both_ends",
        "fine, f7+l7 in all layers, one epoch",
        "pyreft",
        "pyreft, same interventions",
        1.3,
        BOTH_ENDS,
        f"First and last positions share their weights on both sides. {SHORTER_BATCHES}.",
        flops="plain",
    ),
    Comparison(
        "fine_adapters",
        "fine, l7 in all layers, one epoch, nothing kept",
        "adapters",
        "adapters, LoReFT",
        None,
        LAST,
        "adapters also edits the answer's last token, which reaches no loss. One epoch: heft keeps nothing.",
        own=NOTHING_KEPT,
        flops="prefix",
    ),
    Comparison(
        "sweep",
        f"sweep of 16 configurations, l7 in all layers, {SWEEP_EPOCHS} epochs",
        "heft",
        f"one plain run of {SWEEP_EPOCHS} epochs",
        1.5,
        LAST,
        "Ranks 4 and 8, four learning rates, two seeds, whose orders of rows differ; one row is held back, where a"
        " sweep has a tenth. Prefixes are computed once, in the time, and kept in memory.",
        own={"settings": {"cache": "memory"}, "grid": GRID, "tokens_per_pass": 4096, "own_epochs": SWEEP_EPOCHS},
        peer_job=PLAIN | {"own_epochs": SWEEP_EPOCHS},
        takes_longer=True,
    ),
    Comparison(
        "sweep_of_64",
        f"sweep of 64 configurations, l7 in all layers, {SWEEP_EPOCHS} epochs",
        "heft",
        f"one plain run of {SWEEP_EPOCHS} epochs",
        2.0,
        LAST,
        "Two ranks, eight learning rates, two warmups, two schedules, one seed; else as the sweep of 16. What has to be"
        " computed is 64·7 tokens of each row against all of one row, so the ratio falls as rows grow.",
        own={"settings": {"cache": "memory"}, "grid": GRID_OF_64, "tokens_per_pass": 4096, "own_epochs": SWEEP_EPOCHS},
        peer_job=PLAIN | {"own_epochs": SWEEP_EPOCHS},
        takes_longer=True,
    ),
    Comparison(
        "sweep_of_lora",
        f"sweep of 16 LoRA configurations, l8+, {SWEEP_EPOCHS} epochs",
        "heft",
        f"one LoRA run of all tokens of {SWEEP_EPOCHS} epochs",
        2.0,
        COARSE | {"unchanged_at_first": True},
        "Ranks 4 and 8, eight learning rates, one seed; one row is held back. Prefixes are computed once, in the time,"
        " and kept in memory.",
        own={
            "settings": {"cache": "memory", "positions": "l8+"},
            "grid": GRID_OF_LORA,
            "tokens_per_pass": 4096,
            "own_epochs": SWEEP_EPOCHS,
        },
        peer_job={"own_epochs": SWEEP_EPOCHS},
        takes_longer=True,
    ),
    Comparison(
        "evaluation",
        "evaluation, choices by log-likelihood",
        "lmeval",
        "lm-eval, its best batch size",
        1.5,
        {"stage": "evaluation", "rows": "evaluation", "block_rows": 256},
        "Requests are given as token ids, so neither side's templates and tokenisation are in it. A sample of the"
        " split, in whole passages; heft shares what the questions on one passage begin with, and multiplies by frozen"
        " weights in oneDNN where that is faster, as `heft eval` does.",
    ),
)


def cost_seconds(comparison: Comparison, reply: dict) -> float:
    """Seconds of the comparison's unit of work: one row, or the whole run worked out from what was measured."""
    if comparison.later_epochs:
        return median(reply["epoch_seconds"][1:]) * reply["epochs"] / reply["examples"]
    if not comparison.whole_run:
        return reply["seconds"] / reply["examples"]
    epochs = reply.get("epoch_seconds") or [reply["seconds"] / reply["epochs"]] * reply["epochs"]
    later = epochs[1:] or epochs
    whole = epochs[0] + (FINE_EPOCHS - 1) * sum(later) / len(later)
    return whole * FINE_ROWS / (reply["examples"] / reply["epochs"])
