"""The figures of a plan."""

from dataclasses import asdict, dataclass

from heft.training.reuse.plan import ReusePlan


@dataclass(frozen=True)
class DataPlan:
    """Rows of a split: how many, their tokens (prompt and answer), and how many prompts are cut to the limit."""

    rows: int
    tokens: int
    mean_tokens: float
    longest: int
    cut: int


@dataclass(frozen=True)
class StagePlan:
    """What a stage will cost.

    Attributes:
        rows: that are trained on.
        flops: of training, as it will run; like all other figures from FLOPs None where the model cannot be counted.
        plain_flops: of training with nothing reused.
        reuse: what is computed once, or why nothing is.
        peak_bytes: of memory in training, in each process.
        uncounted: why FLOPs are not counted; None where they are.
        evaluation_flops: of the evaluation after the stage; 0 in a sweep, which has none.
        seconds, evaluation_seconds: at the plan's matrix rate; None without one.
    """

    name: str
    method: str
    rows: int
    steps: int
    trainable_parameters: int
    flops: float | None
    plain_flops: float | None
    reuse: ReusePlan
    peak_bytes: int | None
    evaluation_flops: float | None
    uncounted: str | None = None
    seconds: float | None = None
    evaluation_seconds: float | None = None


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep's last stage will cost, all configurations side by side.

    Attributes:
        behind_prefixes: how many of them run the end of their rows only, behind a prefix that they share.
        rows: that are trained on.
        steps: of the longest configuration.
        trainable_parameters: of all configurations.
        flops: of all configurations, side by side.
        one_plain_flops: of one configuration run alone with nothing reused, the mean of all.
        all_alone_flops: of all configurations run alone, one after the other, each with the reuse that it has alone.
        reuse: the prefixes that are shared, or why none are.
        peak_bytes: of memory in training.
        evaluation_flops: of the winner's evaluation, where the recipe asks for it.
        seconds, evaluation_seconds: at the plan's matrix rate; None without one.
    """

    stage: str
    configurations: int
    behind_prefixes: int
    rows: int
    steps: int
    trainable_parameters: int
    flops: float
    one_plain_flops: float
    all_alone_flops: float
    reuse: ReusePlan
    peak_bytes: int
    evaluation_flops: float
    seconds: float | None = None
    evaluation_seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a recipe will cost; `stages` are those that are trained one after the other, `sweep` the last one.

    The base's evaluation is 0 in a sweep, which has none.

    Attributes:
        processes: that train together, each on a device of its own.
        is_sharded: whether they share the model out.
        device_weight_bytes: what of the base's weights each holds on its device, with what it puts together of others.
        host_weight_bytes: what of them each keeps in main memory beside that.
        flops_per_second: of a device's matrix products; None without a probe.
        is_measured: whether they were measured here, and not given.
    """

    model: str
    device: str
    parameters: int
    weight_bytes: int
    train: DataPlan
    eval: DataPlan
    base_evaluation_flops: float | None
    plain_evaluation_flops: float | None
    stages: list[StagePlan]
    sweep: SweepPlan | None = None
    flops_per_second: float | None = None
    processes: int = 1
    is_sharded: bool = False
    device_weight_bytes: int = 0
    host_weight_bytes: int = 0
    is_measured: bool = True

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)
