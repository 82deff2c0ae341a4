"""Scores of choices against the definition, whatever the batch and the padding."""

from dataclasses import replace

import pytest
import torch

import tiny
from heft.adapters.attach import attach, finish
from heft.data.encode import Encoder, left_pad
from heft.evaluation import likelihood
from heft.evaluation.likelihood import choice_log_likelihoods, plain_log_likelihoods
from heft.recipe.recipe import ReftStage
from heft.tasks.example import choice_example
from tolerance import rounded

TOKENIZER = tiny.byte_tokenizer()
EXAMPLES = Encoder(TOKENIZER, 256)(
    [choice_example("t", "Q" * n + "?", ("yes", "no", "perhaps not"), 0) for n in (3, 30, 11, 5)]
)


def single_token_examples():
    """The examples with every choice cut to one token."""
    return [replace(e, choices=tuple((choice[1],) for choice in e.choices)) for e in EXAMPLES]


def model_with_edit(architecture):
    model = tiny.tiny_model(architecture)
    stage = ReftStage(method="reft", rank=2, positions="f1+l2", intervention="consreft", steps=1)
    finish(model, attach(model, "fine", stage))
    return model


def by_definition(model, examples):
    scores = []
    for example in examples:
        row = []
        for choice in example.choices:
            ids = torch.tensor([example.prompt + choice])
            with torch.no_grad():
                log_probs = model(ids, prompt_lengths=[len(example.prompt)]).logits[0].log_softmax(-1)
            start = len(example.prompt)
            row.append(sum(log_probs[start + k - 1, token].item() for k, token in enumerate(choice)))
        scores.append(row)
    return scores


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
@pytest.mark.parametrize("examples", [EXAMPLES, single_token_examples()], ids=["many tokens", "one token"])
def test_scores_are_sums_of_log_probabilities_for_any_batch_size(architecture, examples):
    model = model_with_edit(architecture)
    expected = by_definition(model, examples)
    for batch_size in (1, 3, 100):
        plain = plain_log_likelihoods(model, examples, batch_size, 0)
        shared = choice_log_likelihoods(model, examples, batch_size=batch_size, pad_id=0)
        for row, other, reference in zip(plain, shared, expected, strict=True):
            assert row == rounded(reference)
            assert other == rounded(reference)


def test_padding_on_the_right_gives_the_same_scores(monkeypatch):
    def right_pad(rows, pad_id):
        batch = left_pad(rows, pad_id)
        shifts = [batch["input_ids"].shape[1] - len(row) for row in rows]
        rolled = {k: torch.stack([row.roll(-s) for row, s in zip(v, shifts, strict=True)]) for k, v in batch.items()}
        return rolled

    model = model_with_edit("llama")
    examples = single_token_examples()
    expected = choice_log_likelihoods(model, examples, batch_size=4, pad_id=0)
    ends = [len(e.prompt) - 1 for e in sorted(examples, key=lambda e: -len(e.prompt))]
    batch = right_pad([e.prompt for e in sorted(examples, key=lambda e: -len(e.prompt))], 0)
    with torch.no_grad():
        logits = model(**batch, prompt_lengths=[end + 1 for end in ends]).logits.log_softmax(-1)
    order = sorted(range(4), key=lambda i: -len(examples[i].prompt))
    for row, end, index in zip(logits, ends, order, strict=True):
        got = [row[end, choice[0]].item() for choice in examples[index].choices]
        assert got == rounded(expected[index])


def test_single_token_choices_need_one_forward_row_an_example():
    seen = []
    model = tiny.tiny_model()
    model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    likelihood.choice_log_likelihoods(model, single_token_examples(), batch_size=2, pad_id=0)
    assert seen == [2, 2]


def test_rows_of_unlike_length_run_apart_where_that_is_asked_for_and_nothing_is_shared():
    seen = []
    model = tiny.tiny_model()
    model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    choice_log_likelihoods(model, EXAMPLES, batch_size=100, pad_id=0, equal_lengths=True)
    lengths = {len(e.prompt) + len(choice) - 1 for e in EXAMPLES for choice in e.choices}
    assert sorted(mask.shape[1] for mask in seen) == sorted(lengths)
    assert all(mask.all() for mask in seen)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_progress_is_told_in_examples_and_ends_with_all_of_them(share_prefix):
    done = []
    options = {"batch_size": 5, "pad_id": 0, "share_prefix": share_prefix, "on_batch": done.append}
    choice_log_likelihoods(tiny.tiny_model(), EXAMPLES, **options)
    assert done == sorted(done)
    assert done[-1] == len(EXAMPLES)
