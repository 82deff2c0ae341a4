"""Configurations attached side by side to one model, ready to train, and gone from it afterwards."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel

from heft.adapters.attach import train_only
from heft.adapters.detach import gone_afterwards
from heft.adapters.orthogonal import orthogonal_in_words
from heft.costs.shapes import NO_SHAPE
from heft.models.equality import why_unequal
from heft.models.frozen_linear import frozen_layers_in_onednn
from heft.models.load import Base
from heft.recipe.grid import Configuration
from heft.reft.tracker import ForwardTracker
from heft.runtime.memory_errors import attempt
from heft.runtime.reporter import Reporter
from heft.sweep.forward import PackedForward, StepStore, can_stand_side_by_side
from heft.sweep.learner import Learner
from heft.sweep.packed_lora import keep_apart, packed_lora
from heft.sweep.retry import RetryingForward, TokenBudget
from heft.sweep.sharing import decide_sharing
from heft.sweep.training import SideBySide
from heft.text.listing import first_of
from heft.training.attention import attention_for_training
from heft.training.batches import TrainingData
from heft.training.checked_loss import moves, no_effect, of_unlike_length, other_answer, shaken, shortest_of
from heft.training.fused_lora import fused_lora
from heft.training.modes import repeatable
from heft.training.reuse.decide import first_equal, forms_of, reuse_of, with_store
from heft.training.reuse.facts import has_dropout
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.shared import StagePrefixes
from heft.training.reuse.stores import Store


@contextmanager
def side_by_side(
    base: Base,
    tried: Sequence[Configuration],
    data: TrainingData,
    seeds: Sequence[int],
    tokens_per_pass: int,
    reporter: Reporter,
    prefixes: StagePrefixes | None = None,
) -> Iterator[SideBySide]:
    """The training of all configurations, each of which edits its own tokens only; `seeds` has one for each.

    Prefixes are computed here, or are those of the base that are kept already, `prefixes`, whose `shared.start` is how
    far the stages before reach back.

    Their adapters are on the model, behind those of earlier stages, while this is open, and the model computes in the
    faster of equal ways, as in a run of each alone (heft.training.stage).
    """
    model, fused, scratch = base.model, tried[0].stage.fused, tempfile.TemporaryDirectory(prefix="heft-")
    with (
        scratch,
        repeatable(model.device),
        attention_for_training(model, base.settings.attention, data.examples),
        fused_lora(model, fused),
        frozen_layers_in_onednn(model, fused),
        _numbering(model) as tracker,
        gone_afterwards(model),
    ):
        learners = []
        for number, (configuration, seed) in enumerate(zip(tried, seeds, strict=True)):
            learners.append(Learner(model, number, configuration, data, seed))
            if configuration.stage.method == "lora":
                keep_apart(model, tracker, configuration.adapter)
        for words in _kept_out_in_words(base, tried):
            reporter.note(words)
        tracker.adapter_index.update({each.adapter: number for number, each in enumerate(tried)})
        plain = _plain_passes(base, learners, data)
        with packed_lora(model, tracker, _may_be_packed(plain, tracker, learners, reporter)):
            passes = _passes(base, plain, learners, data, Path(scratch.name), reporter, prefixes)
            _require_effects(passes, learners)
            validation = range(len(data.rows), len(data.examples))
            retrying = RetryingForward(learners, passes, TokenBudget(tokens_per_pass, reporter.note))
            yield SideBySide(learners, passes, validation, retrying)


@contextmanager
def _numbering(model: PreTrainedModel) -> Iterator[ForwardTracker]:
    """The tracker, whose numbers are forgotten afterwards; it goes where no adapter with positions is left."""
    tracker = ForwardTracker.on(model)
    try:
        yield tracker
    finally:
        tracker.adapter_index.clear()
        tracker.release()


def _plain_passes(base: Base, learners: Sequence[Learner], data: TrainingData) -> PackedForward:
    """Every configuration on whole rows."""
    bf16 = learners[0].configuration.stage.bf16
    return PackedForward(base.model, data.examples, base.tokenizer.pad_token_id, bf16)


def _kept_out_in_words(base: Base, tried: Sequence[Configuration]) -> list[str]:
    """What configurations keep out of (`orthogonal_to`), each line once for all that it is said of."""
    said: dict[tuple[str, ...], list[str]] = {}
    for each in tried:
        lines = tuple(orthogonal_in_words(base.model, each.adapter, "", each.stage))  # begin with a colon
        said.setdefault(lines, []).append(each.name)
    return [f"{first_of(names, 3)}{line}" for lines, names in said.items() for line in lines]


def _passes(
    base: Base,
    plain: PackedForward,
    learners: Sequence[Learner],
    data: TrainingData,
    folder: Path,
    reporter: Reporter,
    prefixes: StagePrefixes | None,
) -> PackedForward:
    """How the configurations go through the model."""
    stages = [learner.configuration.stage for learner in learners]
    seeds = [learner.seed for learner in learners]
    counts, before = (len(data.rows), len(data.validation_rows)), 0 if prefixes is None else prefixes.shared.start
    sharing = decide_sharing(stages, seeds, *counts, can_stand_side_by_side(base.model), before)
    if has_dropout(base.model):
        reporter.note("the base model has dropout of its own, so configurations draw other numbers than alone")
    if len(sharing.behind) < len(learners):
        reporter.note(f"{len(learners) - len(sharing.behind)} configurations run whole rows, in a pass of their own")
    if not sharing.behind:
        return plain
    if prefixes is None:
        reuse = reuse_of(sharing.plan, base.model, data.examples, plain.pad_id, Store())
        reuse = with_store(reuse, sharing.plan, stages[0].cache, sharing.uses, folder, reporter)
    else:
        reuse = prefixes.base.reuse(base.model, sharing.plan.start, plain.pad_id, data.examples)
    if reuse.store.kind == "off":
        reuse = replace(reuse, store=StepStore())
    trained = _trained(learners)

    def shared(form: PrefixReuse) -> PackedForward:
        return replace(plain, reuse=form, suffixes=sharing.suffixes)

    ends = sorted({min(sharing.behind), max(sharing.behind)})
    forms = forms_of(reuse, base.settings.attention)
    reuse, why_not = first_equal(forms, lambda form: _why_not_shared(shared(form), plain, ends, trained), reporter)
    if why_not is not None:
        reporter.note(f"reuse is off, all configurations run whole rows: {why_not}")
        return plain
    return shared(reuse)


def _require_effects(passes: PackedForward, learners: Sequence[Learner]) -> None:
    """As `require_an_effect`, of each configuration; those of one shape are one.

    Raises:
        HeftError: a configuration of which no weight would get a gradient other than 0.
    """
    by_shape = {each.configuration.stage.model_dump_json(exclude=NO_SHAPE): each for each in reversed(learners)}
    unmoved = list(by_shape.values())
    train_only(passes.model, [each.configuration.adapter for each in unmoved])
    with shaken(passes.model, _trained(unmoved)), torch.enable_grad():
        for row in shortest_of(passes.examples):
            (unmoved,) = attempt(lambda row=row, tried=unmoved: _without_effect(passes, tried, row)) or [[]]
    if unmoved:
        raise no_effect(f"configuration {unmoved[-1].configuration.name}")


def _without_effect(passes: PackedForward, learners: Sequence[Learner], row: int) -> list[Learner]:
    """Those of which nothing that trains changes what is likely behind a row's prompt."""
    if not learners:
        return []
    answer = other_answer(passes.examples[row])
    losses = passes.losses([passes.item(each.number, row, answer) for each in learners])
    passes.end_step()
    if not losses.requires_grad:
        return list(learners)
    found = iter(torch.autograd.grad(losses.sum(), _trained(learners), allow_unused=True))
    return [each for each in learners if not moves(list(itertools.islice(found, len(each.parameters))))]


def _trained(learners: Sequence[Learner]) -> list[torch.nn.Parameter]:
    return [parameter for learner in learners for parameter in learner.parameters.values()]


def _may_be_packed(
    plain: PackedForward, tracker: ForwardTracker, learners: Sequence[Learner], reporter: Reporter
) -> bool:
    """Whether LoRA layers may compute the branches of all configurations at once; where not, a note says why."""
    lora = [learner for learner in learners if learner.configuration.stage.method == "lora"]
    if not lora or not lora[0].configuration.stage.fused:
        return False
    # short rows show as much, and of long ones the check would take as long as a step
    chosen, rows = [lora[0], lora[-1]], sorted(range(len(plain.examples)), key=lambda n: plain.examples[n].length)[:2]
    work = list(dict.fromkeys((each.number, row, plain.examples[row].answer) for each in chosen for row in rows))
    trained = _trained(dict.fromkeys(chosen))

    def computed(passes: Sequence[Sequence[tuple]]) -> list[float]:
        losses = torch.cat([plain.losses([plain.item(*part) for part in parts]) for parts in passes])
        found = torch.autograd.grad(losses.sum(), trained, allow_unused=True)
        return [*losses.tolist(), float(get_total_norm([g for g in found if g is not None]))]

    def packed() -> list[float]:
        with packed_lora(plain.model, tracker):
            return computed([work])

    train_only(plain.model, [each.configuration.adapter for each in chosen])
    with shaken(plain.model, trained), torch.enable_grad():
        tried = attempt(lambda: (computed([[part] for part in work]), computed([work])))
        if tried is None:
            return True
        why_not = why_unequal(packed, *tried[0], plain.model.dtype)
    if why_not is not None:
        reporter.note(f"fused is off, PEFT's own layers compute: {why_not}")
    return why_not is None


def _why_not_shared(
    shared: PackedForward, plain: PackedForward, adapters: Sequence[int], trained: Sequence[torch.nn.Parameter]
) -> str | None:
    """Why configurations are not to run behind prefixes, in words; None where these have the losses they have alone."""
    rows = of_unlike_length(plain.examples)
    work = [(adapter, row, plain.examples[row].answer) for adapter in adapters for row in rows]

    def losses(passes: PackedForward, parts: Sequence[tuple]) -> list[float]:
        return passes.losses([passes.item(*part) for part in parts]).tolist()

    with shaken(plain.model, trained), torch.no_grad():
        tried = attempt(lambda: ([loss for part in work for loss in losses(plain, [part])], losses(plain, work)))
        if tried is None:
            return None
        why_not = why_unequal(lambda: losses(shared, work), *tried[0], plain.model.dtype)
        shared.end_step()
    return why_not
