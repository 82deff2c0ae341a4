"""What heft computes once, against computing it for every row: in evaluation and in training."""

from dataclasses import replace

import torch

from heft.adapters.attach import activate, train_only
from heft.data.encode import EncodedExample, training_batch
from heft.data.padding import padding_matters
from heft.edits.positions import longest_tail
from heft.evaluation.likelihood import choice_log_likelihoods
from heft.evaluation.shared_prefix import shared_batches
from heft.models.prefix_states import keeps_plain_keys
from heft.reft.tracker import positions_of
from heft.training.loss import Loss, answer_loss
from heft.training.reuse.decide import reuse_of
from heft.training.reuse.facts import ReuseFacts
from heft.training.reuse.plan import PREFIXES, what_can_be_reused
from heft.training.reuse.stores import MemoryStore
from heft.verify.finding import Finding, does_not_apply, judged, most
from heft.verify.subject import AdapterUnderTest

SHARING = "shared prefixes in evaluation"
TRAINING = "reuse in training"
_PADDED = "padding changes what the base makes of a row, so heft computes rows of one length from their start on"
_LONGEST_CHOICE = 4
_LEAST_LOSS, _LEAST_GRADIENT = 1.0, 0.01
"""Answers that are all but certain have losses and gradients near 0, and the rounding of logits does not shrink so."""
_TEXTS = 2
"""The plain path runs four rows a text, so two of the probe's are enough."""


def check_sharing(subject: AdapterUnderTest) -> list[Finding]:
    """Log-likelihoods of choices with what rows have in common computed once, against every row from its start on."""
    model = subject.model
    if padding_matters(model, subject.pad_id, max(subject.probe.lengths)):
        return [does_not_apply(SHARING, _PADDED)]
    if not keeps_plain_keys(model):
        return [does_not_apply(SHARING, "this model caches no plain keys and values; heft takes the plain path there")]
    examples = [e for i, row in enumerate(subject.probe.rows[:_TEXTS]) for e in two_questions(row, f"text {i}")]
    batches = shared_batches(examples, len(examples), longest_tail(positions_of(model)))
    options = {"batch_size": len(examples), "pad_id": subject.pad_id}
    shared, plain = (
        torch.tensor(sum(choice_log_likelihoods(model, examples, share_prefix=share, **options), []))
        for share in (True, False)
    )
    tokens = sum(one.tokens for batch in batches for one in batch.passes(len(examples)))
    full = sum(len(e.prompt) + len(choice) - 1 for e in examples for choice in e.choices)
    texts = sum(len(stems) > 1 for batch in batches for stems, shared in batch.families if shared)
    return [
        judged(
            SHARING,
            f"{len(shared)} choices of {len(examples)} questions, two a text ({texts} texts shared, {tokens:,} tokens"
            f" run), against each row from its start on ({full:,} tokens)",
            "log-likelihoods",
            (shared - plain).abs().max().item(),
            subject.rounding.log_likelihoods(_LONGEST_CHOICE),
            f"up to {_LONGEST_CHOICE} log-probabilities, each two terms of {subject.rounding.why}",
            differ=int((shared.view(-1, 2).argmax(1) != plain.view(-1, 2).argmax(1)).sum()),
            of=len(examples),
            things="predictions",
        )
    ]


def two_questions(row: EncodedExample, group: str) -> list[EncodedExample]:
    """The row's prompt, and it without its last token but one: questions on one text, with choices that share a start.

    What is shared is so the same for every task, whatever its choices are; the words mean nothing.
    """
    a, b, c, d = (row.answer[:1] + row.prompt[:3] * 3)[:_LONGEST_CHOICE]
    choices = ((a, b, c), (a, c, b, d))
    example = replace(row.example, group=group)
    prompts = (row.prompt, row.prompt[:-2] + row.prompt[-1:])
    return [EncodedExample(example, prompt, choices, row.answer, 0) for prompt in prompts]


def check_training(subject: AdapterUnderTest) -> list[Finding]:
    """Loss and gradients of the last stage that reuses something, with what it does not change cached, against computed
    in every step."""
    if padding_matters(subject.model, subject.pad_id, max(subject.probe.lengths)):
        return [does_not_apply(TRAINING, _PADDED)]
    batch = training_batch(subject.probe.rows, subject.pad_id)
    batch["row_ids"] = torch.arange(len(subject.probe.rows))
    batch = {key: value.to(subject.model.device) for key, value in batch.items()}
    stages = dict.fromkeys(entry.stage for entry in reversed(subject.manifest.adapters))
    try:
        for stage in stages:
            names = [entry.name for entry in subject.manifest.adapters if entry.stage == stage]
            train_only(subject.model, names)
            reuse, what = _reuse(subject)
            if reuse is not None:
                break
        else:
            return [
                does_not_apply(TRAINING, "every stage acts on early tokens in the first layer: nothing is constant")
            ]
        with torch.no_grad():
            reuse(subject.model, batch)  # fills the store, which later epochs read
        cached = _loss_and_gradients(subject, reuse, batch)
        plain = _loss_and_gradients(subject, answer_loss, batch)
    finally:
        subject.model.zero_grad()
        activate(subject.model, list(subject.model.peft_config))
    return _training_findings(
        subject, f"{' and '.join(names)} with {what}, against every token in every layer", cached, plain
    )


def _training_findings(subject: AdapterUnderTest, compared: str, cached: tuple, plain: tuple) -> list[Finding]:
    (loss, gradients), (plain_loss, expected) = cached, plain
    apart = [(gradients[name] - value).abs().max().item() for name, value in expected.items()]
    worst = most(apart)
    scale = most(value.abs().max().item() for value in expected.values())
    relative, why = subject.rounding.relative, "as for logits"
    return [
        judged(
            f"{TRAINING}: loss", compared, "losses", abs(loss - plain_loss), relative * max(plain_loss, _LEAST_LOSS),
            f"{relative:g} of the loss, {plain_loss:.4g}, or of {_LEAST_LOSS:g} if that is more, {why}",
        ),
        judged(
            f"{TRAINING}: gradients", compared, "gradients", worst, 10 * relative * max(scale, _LEAST_GRADIENT),
            f"{10 * relative:g} of the largest gradient, {scale:.3g}, or of {_LEAST_GRADIENT:g} if that is more: a"
            " backward pass adds its own rounding",
        ),
    ]  # fmt: skip


def _reuse(subject: AdapterUnderTest) -> tuple[Loss | None, str]:
    """The loss that heft would train with where rows come again, and what it caches."""
    plan = what_can_be_reused(ReuseFacts.of(subject.model))
    if plan is None:
        return None, ""
    loss = reuse_of(plan, subject.model, subject.probe.rows, subject.pad_id, MemoryStore()).loss
    if plan.kind == PREFIXES:
        return loss, f"the tokens before the last {plan.start} of each prompt cached"
    return loss, f"layers 0 to {plan.start - 1} cached"


def _loss_and_gradients(subject: AdapterUnderTest, loss: Loss, batch: dict) -> tuple[float, dict[str, torch.Tensor]]:
    subject.model.zero_grad()
    value = loss(subject.model, batch)
    value.backward()
    trained = ((name, p) for name, p in subject.model.named_parameters() if p.requires_grad)
    return value.item(), {name: p.grad.detach().float().cpu().clone() for name, p in trained}
