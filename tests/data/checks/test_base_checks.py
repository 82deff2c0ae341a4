"""Rows beside what the base can take: ids without an embedding, rows beyond the positions."""

import json

import pytest
import torch

import heft
import tiny
from heft.cli.generate import generate
from heft.errors import HeftError
from heft.models.forward import logits_of
from heft.models.limits import BaseLimits, base_limits, beyond_positions, limits_of, require_room
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.recipe.model import ModelSettings

STAGES = "{coarse: {method: lora, rank: 2, steps: 1, batch_size: 4}}"


def folder_of(tmp_path, architecture="llama", extra=(), **config):
    """A base on disk; `extra` tokens are added to its tokenizer and not to the model."""
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(list(extra))
    tiny.tiny_model(architecture, **config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def recipe(base, tmp_path, train, evaluation, *settings):
    for split, rows in (("train", train), ("eval", evaluation)):
        written = (json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows)
        (tmp_path / f"{split}.jsonl").write_text("\n".join(written))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: t\nmodel: {{name: '{base}', device: cpu}}\nstages: {STAGES}\n"
        f"task: {{name: rows, train: {tmp_path / 'train.jsonl'}, eval: {tmp_path / 'eval.jsonl'},"
        " max_new_tokens: 8, max_length: 600}\n"
    )
    return load_recipe(path, [f"output={tmp_path / 'run'}", *settings])


def long_rows(tokens):
    return [("q" * (tokens - 3), "a")]  # the space, the answer, EOS


SHORT, HELD_OUT = [("Is it", "yes"), ("Was it", "no")], [("Will it", "yes")]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_ids_beyond_the_embedding_are_found_before_training_and_by_a_plan(tmp_path, split):
    base = folder_of(tmp_path, extra=["<a>", "<b>"])
    rows = {"train": SHORT, "eval": HELD_OUT}
    rows[split] = [*rows[split], ("Which <a>", "<b>")]
    told = (
        rf"1 of \d {split} rows have token ids up to 260, and the model has embeddings for 0 to 258, such as 'Which <"
    )
    for run in (make_plan, heft.train):
        with pytest.raises(HeftError, match=told):
            run(recipe(base, tmp_path, rows["train"], rows["eval"]))


def test_rows_beyond_learned_positions_are_refused_and_never_allowed(tmp_path):
    base = folder_of(tmp_path, "gpt2", n_positions=64, max_position_embeddings=64)
    heft.train(recipe(base, tmp_path, SHORT + long_rows(64), HELD_OUT, "output=" + str(tmp_path / "fits")))
    for run in (make_plan, heft.train):
        with pytest.raises(HeftError, match="1 of 3 train rows have up to 65 tokens, and the model has 64 positions"):
            run(recipe(base, tmp_path, SHORT + long_rows(65), HELD_OUT, "allow=[beyond_positions]"))


def test_what_may_be_generated_counts_among_an_evaluation_rows_tokens(tmp_path):
    base = folder_of(tmp_path, "gpt2", n_positions=64, max_position_embeddings=64)
    with pytest.raises(HeftError, match="1 of 1 eval rows have up to 67 tokens with what may be generated"):
        heft.train(recipe(base, tmp_path, SHORT, [("q" * 60, "a")]))


def test_eval_and_generate_refuse_in_words_what_learned_positions_cannot_compute(tmp_path):
    base = folder_of(tmp_path, "gpt2", n_positions=64, max_position_embeddings=64)
    heft.train(recipe(base, tmp_path, SHORT, HELD_OUT))
    model, tokenizer = heft.load(tmp_path / "run" / "adapter")
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "q" * 70, "completion": "a"}))
    task = load_recipe(tmp_path / "recipe.yaml").task
    with pytest.raises(HeftError, match="up to 77 tokens with what may be generated, and the model has 64 positions"):
        heft.evaluate(model, tokenizer, task)
    require_room(limits_of(model), [5] * 57, 8)
    with pytest.raises(HeftError, match="has 58 tokens and up to 8 may follow it, and the model has 64 positions"):
        generate(tmp_path / "run" / "adapter", ["q" * 58], max_new_tokens=8)
    with pytest.raises(HeftError, match="the token id 259, and the model has embeddings for 0 to 258"):
        require_room(limits_of(model), [5, 259], 1)


def test_rows_beyond_rotary_positions_are_an_error_that_can_be_allowed(tmp_path):
    base = folder_of(tmp_path, max_position_embeddings=64)
    with pytest.raises(HeftError, match=r"65 tokens, and the model has 64 positions.*allow: \[beyond_positions\]"):
        heft.train(recipe(base, tmp_path, SHORT + long_rows(65), HELD_OUT))
    heft.train(recipe(base, tmp_path, SHORT + long_rows(65), HELD_OUT, "allow=[beyond_positions]"))


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_the_limits_are_those_that_the_model_computes_with(tmp_path, architecture):
    base = folder_of(tmp_path, architecture, max_position_embeddings=32)
    limits = base_limits(ModelSettings(name=str(base)))
    model = tiny.tiny_model(architecture, max_position_embeddings=32)
    assert limits.embeddings == 259
    assert limits.positions == 32
    model(torch.zeros(1, limits.positions, dtype=torch.long))
    assert limits.learned == (architecture == "gpt2")
    if limits.learned:
        with pytest.raises(IndexError):
            model(torch.zeros(1, limits.positions + 1, dtype=torch.long))
    else:
        model(torch.zeros(1, limits.positions + 1, dtype=torch.long))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("OPT", {"word_embed_proj_dim": 32, "ffn_dim": 64}),
        ("GPTNeo", {"attention_types": [[["global"], 3]], "num_layers": 3, "num_heads": 4}),
        ("GPTBigCode", {}),
        ("CodeGen", {"rotary_dim": 4}),
        ("GPTJ", {"rotary_dim": 4}),
        ("CTRL", {"dff": 64}),
        ("Mpt", {"max_seq_len": 32, "expansion_ratio": 2}),  # a bias by distance
    ],
)
def test_tables_of_positions_are_found_under_their_other_names(tmp_path, name, config):
    import transformers

    kind = getattr(transformers, f"{name}Config")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 32}
    settings = kind(vocab_size=259, bos_token_id=1, eos_token_id=2, pad_token_id=0, **(sizes | config))
    model = transformers.AutoModelForCausalLM.from_config(settings).eval()
    model.save_pretrained(tmp_path)
    limits = base_limits(ModelSettings(name=str(tmp_path)))
    assert limits.learned

    def run(length):
        numbers = torch.arange(length)[None]
        logits_of(model, 1, input_ids=torch.full((1, length), 5), position_ids=numbers)

    run(limits.positions)
    with pytest.raises((IndexError, RuntimeError)):
        run(limits.positions + 1)


def test_a_table_of_an_image_encoder_is_no_limit_of_the_text():
    model = tiny.tiny_model()
    model.vision_tower = torch.nn.Module()
    model.vision_tower.position_embedding = torch.nn.Embedding(257, 32)
    model.position_embedding = torch.nn.Embedding(16, 32)  # of something else: the configuration declares 256
    limits = limits_of(model)
    assert (limits.positions, limits.learned) == (256, False)


def test_rows_of_a_table_up_to_that_of_padding_are_no_positions():
    """RoBERTa counts from the row after it."""
    model = tiny.tiny_model()
    model.position_embeddings = torch.nn.Embedding(260, 32, padding_idx=1)  # two to spare: 256 are declared
    limits = limits_of(model)
    assert (limits.positions, limits.learned) == (258, True)


def test_rotary_positions_that_are_scaled_by_length_have_no_end():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    limits = limits_of(tiny.tiny_model(rope_parameters=rope))
    assert (limits.positions, limits.learned) == (None, False)


def test_a_prompt_may_have_as_many_tokens_as_the_model_was_made_for_with_all_but_the_last_new_one():
    limits = BaseLimits(embeddings=10, positions=64)
    require_room(limits, [9] * 100, 8)  # beyond what is not learned, a model computes
    assert beyond_positions(limits, [9] * 57, 8) is None
    assert "58 tokens and up to 8 may follow it, and the model was made for 64" in beyond_positions(limits, [9] * 58, 8)
    assert beyond_positions(BaseLimits(), [9] * 58, 8) is None
    learned = BaseLimits(positions=64, learned=True)
    assert beyond_positions(learned, [9] * 58, 8) is None  # which is an error
    with pytest.raises(HeftError, match="has 58 tokens and up to 8 may follow it, and the model has 64 positions"):
        require_room(learned, [9] * 58, 8)


def test_a_model_that_cannot_be_built_without_weights_has_no_known_limits(tmp_path):
    limits = base_limits(ModelSettings(name=str(tmp_path / "none")))
    assert (limits.embeddings, limits.positions, limits.learned) == (None, None, False)
