"""Scores with shared prefixes against the plain path, and how many tokens sharing computes."""

import random

import pytest
import torch

import tiny
from heft.adapters.attach import adapter_parameters, attach, finish
from heft.data.batching import pass_tokens
from heft.data.encode import Encoder
from heft.evaluation.kept import QuestionPrefixes
from heft.evaluation.likelihood import choice_log_likelihoods, plain_log_likelihoods, plain_rows
from heft.evaluation.shared_pass import SharedPasses
from heft.evaluation.shared_prefix import Pass, common_length, shared_batches, stem_of
from heft.models.prefix_states import keeps_plain_keys
from heft.recipe.recipe import LoraStage, ReftStage
from heft.tasks.example import choice_example
from heft.training.reuse.shared import RowPrefixes
from tolerance import rounded

LETTERS = ("yes", "no", "perhaps not", "perhaps so")


def examples_of_texts(options=("a", "b"), seed=0):
    """Passages of 1 to 5 questions each, some with nothing in common, in a shuffled order."""
    draw = random.Random(seed)
    examples = []
    for number in range(3):
        passage = "".join(draw.choice("abcdef ") for _ in range(draw.randint(8, 60)))
        for _ in range(draw.randint(1, 3)):
            question = "".join(draw.choice("uvwxyz") for _ in range(draw.randint(3, 14)))
            examples.append(choice_example("t", f"{passage}\n{question}:", options, 0, group=f"{number}"))
    examples.append(choice_example("t", "no passage:", options, 0))
    draw.shuffle(examples)
    return Encoder(tiny.byte_tokenizer(), 256)(examples)


def first_tokens(examples):
    """Each choice cut to its letter, so that all are single tokens."""
    return [
        type(e)(e.example, e.prompt, tuple((c[1],) for c in e.choices), e.answer, e.cut) for e in examples
    ]  # fmt: skip


MANY_TOKENS = examples_of_texts(LETTERS)
ONE_TOKEN = first_tokens(examples_of_texts(("x", "y")))


def staged(architecture, *positions):
    model = tiny.tiny_model(architecture)
    stages = [("coarse", LoraStage(method="lora", rank=2, steps=1))]
    stages += [(f"fine{i}", ReftStage(method="reft", rank=2, positions=p, steps=1)) for i, p in enumerate(positions)]
    for name, stage in stages:
        attached = attach(model, name, stage)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in adapter_parameters(model, attached.names).values():
                parameter.add_(0.1 * torch.randn_like(parameter))
        finish(model, attached)
    return model


def computed_tokens(model, run):
    """Columns times rows of every call of the decoder body."""
    seen = []
    embed = model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda module, args, output: seen.append(args[0].numel()))
    run()
    handle.remove()
    return seen


@pytest.mark.parametrize("positions", [("f1+l2",), ("l12", "l1"), ("all",)], ids="/".join)
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_scores_are_those_of_the_plain_path(architecture, positions):
    model = staged(architecture, *positions)
    assert keeps_plain_keys(model)
    for examples in (MANY_TOKENS, ONE_TOKEN):
        expected = plain_log_likelihoods(model, examples, 4, 0)
        for batch_size in (1, 4):
            shared = choice_log_likelihoods(model, examples, batch_size=batch_size, pad_id=0)
            difference = max(
                abs(a - b) for x, y in zip(shared, expected, strict=True) for a, b in zip(x, y, strict=True)
            )
            assert difference < 2e-4


@pytest.mark.parametrize("share_prefix", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("examples", [MANY_TOKENS, ONE_TOKEN], ids=["many", "one"])
def test_every_token_of_every_choice_is_heard_once_in_order_with_its_log_probability(examples, share_prefix):
    heard = {}

    def hear(index, choice, log_probs_KV, ids_K):
        pairs = zip(ids_K.tolist(), log_probs_KV, strict=True)
        heard.setdefault((index, choice), []).extend((token, row[token].item()) for token, row in pairs)

    options = {"batch_size": 4, "pad_id": 0, "share_prefix": share_prefix, "on_tokens": hear}
    scores = choice_log_likelihoods(staged("llama", "f1+l2"), examples, **options)
    for index, example in enumerate(examples):
        for choice, ids in enumerate(example.choices):
            tokens, values = zip(*heard.pop((index, choice)), strict=True)
            assert tokens == ids
            assert sum(values) == pytest.approx(scores[index][choice], abs=1e-4)
    assert not heard


def test_choices_that_begin_alike_are_scored_beside_others_that_do_not():
    """Stems then have logits in unlike many columns."""
    texts = [("Which one?", ("maybe", "mayor")), ("Which two?", ("yes", "no"))]
    examples = Encoder(tiny.byte_tokenizer(), 256)([choice_example("t", text, choices, 0) for text, choices in texts])
    (batch,) = shared_batches(examples, 4, last_edited=0)
    assert [stem.scored for stem in batch.stems] == [len(" may") + 1, len(" ") + 1]
    model = staged("llama", "f1+l2")
    expected = plain_log_likelihoods(model, examples, 4, 0)
    shared = choice_log_likelihoods(model, examples, batch_size=4, pad_id=0)
    assert sum(shared, []) == rounded(sum(expected, []))


def test_a_prompt_too_short_for_a_kept_prefix_is_scored_beside_longer_ones():
    examples = Encoder(tiny.byte_tokenizer(), 256)(
        [choice_example("t", text, ("yes", "no"), 0) for text in ("?", "Q" * 12, "Q" * 9)]
    )
    model = staged("llama", "l2")
    kept = QuestionPrefixes(RowPrefixes(examples, 4, 8, of_base=False), model, 4, 0)
    (batch,) = shared_batches(examples, 3, 2, pass_tokens(model.device, trains=False), kept.start)
    assert batch.split > 0
    found = choice_log_likelihoods(model, examples, batch_size=3, pad_id=0, kept=kept)
    assert sum(found, []) == rounded(sum(plain_log_likelihoods(model, examples, 3, 0), []))


def test_a_model_without_edits_shares_too():
    model = tiny.tiny_model("gemma3")
    expected = plain_log_likelihoods(model, MANY_TOKENS, 4, 0)
    shared = choice_log_likelihoods(model, MANY_TOKENS, batch_size=4, pad_id=0)
    assert sum(shared, []) == rounded(sum(expected, []))


def test_sharing_more_than_is_equal_would_show():
    """The test above can fail: tokens before a last position, but not the edited ones, are equal in all rows."""
    model = staged("llama", "l12")
    expected = plain_log_likelihoods(model, ONE_TOKEN, 4, 0)
    wrong = [[0.0] * 2 for _ in ONE_TOKEN]
    for batch in shared_batches(ONE_TOKEN, 64, last_edited=1):  # 12 are edited: too much is shared
        SharedPasses(model, ONE_TOKEN, wrong, batch_size=64, pad_id=0).score(batch)
    assert max(abs(a - b) for a, b in zip(sum(wrong, []), sum(expected, []), strict=True)) > 1e-2


@pytest.mark.parametrize("examples", [MANY_TOKENS, ONE_TOKEN], ids=["many tokens", "one token"])
def test_the_same_arguments_give_the_same_bits(examples):
    model = staged("llama", "f1+l2")
    first, second = (choice_log_likelihoods(model, examples, batch_size=4, pad_id=0) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("examples", [MANY_TOKENS, ONE_TOKEN], ids=["many tokens", "one token"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_plan_is_what_runs_and_is_less_than_the_plain_path(examples, batch_size):
    model = staged("llama", "l2")
    planned = [p for batch in shared_batches(examples, batch_size, 2) for p in batch.passes(batch_size)]
    ran = computed_tokens(model, lambda: choice_log_likelihoods(model, examples, batch_size=batch_size, pad_id=0))
    assert ran == [p.tokens for p in planned]
    assert all(p.rows <= batch_size for p in planned)
    plain = computed_tokens(model, lambda: plain_log_likelihoods(model, examples, batch_size, 0))
    assert sum(ran) < sum(plain) if batch_size > 1 or examples is MANY_TOKENS else sum(ran) == sum(plain)


def test_every_example_is_scored_once():
    for batch_size in (1, 3, 100):
        batches = shared_batches(MANY_TOKENS, batch_size, 0)
        assert sorted(s.index for b in batches for s in b.stems) == list(range(len(MANY_TOKENS)))


def test_a_passage_of_two_questions_runs_once_by_hand():
    """Passage of 40 bytes and newline, questions of 3 and 4 bytes; 'l2' leaves the last two tokens of each alone."""
    texts = [f"{'p' * 40}\nab:", f"{'p' * 40}\nabc:"]
    examples = first_tokens(
        Encoder(tiny.byte_tokenizer(), 256)([choice_example("t", t, ("x", "y"), 0, group="p") for t in texts])
    )
    (batch,) = shared_batches(examples, 8, last_edited=2)
    # 44 and 45 tokens begin with 43 equal ones, of which 42 stand before the last two of the shorter; 3 are left
    assert batch.passes(8) == [Pass(1, 42, 0, 0), Pass(2, 3, 42, 1)]


def test_choices_share_their_prompt_and_what_they_begin_with():
    (example,) = Encoder(tiny.byte_tokenizer(), 256)([choice_example("t", "Q?", ("maybe", "mayor", "ma"), 0)])
    stem = stem_of(7, example)
    text = tiny.byte_tokenizer().decode(stem.ids)
    assert text == "Q? m"  # " ma" is fed as " m": its last token is only predicted
    assert (stem.index, stem.prompt, stem.scored) == (7, 2, 3)
    assert [(c, tiny.byte_tokenizer().decode(ids)) for c, ids in stem.rests] == [(0, "ayb"), (1, "ayo")]


def test_common_length_is_that_of_all_rows():
    assert common_length([(1, 2, 3), (1, 2, 4), (1, 2)]) == 2
    assert common_length([(5,), (1, 2)]) == 0
    assert common_length([(1, 2)]) == 2
    assert common_length([(), (1,)]) == 0


def test_a_model_with_rotary_positions_scaled_by_length_takes_the_plain_path():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tiny.tiny_model("llama", rope_parameters=rope)
    assert not keeps_plain_keys(model)
    ran = computed_tokens(model, lambda: choice_log_likelihoods(model, ONE_TOKEN, batch_size=100, pad_id=0))
    assert ran == computed_tokens(model, lambda: plain_log_likelihoods(model, ONE_TOKEN, 100, 0))
    assert len(plain_rows(0, ONE_TOKEN[0])) == 1
