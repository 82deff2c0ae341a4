"""New tokens: their embeddings are trained, saved and loaded with a LoRA adapter, in heft and in plain PEFT."""

import copy
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import heft
import tiny
from heft.adapters.methods import adapters_of
from heft.adapters.trainable_tokens import token_ids
from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.recipe.recipe import LoraStage
from heft.verify import verify
from heft.verify.finding import FAILED

NEW = ["<a>", "<b>"]


def write_base(folder, tied: bool = True, architecture: str = "llama"):
    """Write a model whose tokenizer has two tokens more, tied or not, and return its folder."""
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(NEW, special_tokens=True)
    model = tiny.tiny_model(architecture, vocab_size=len(tokenizer), tie_word_embeddings=tied)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path):
    """Writes such a model, tied or not, and returns its folder."""
    return lambda tied=True: write_base(tmp_path / f"llama-{tied}", tied)


def recipe(folder, tmp_path, *settings, stages=None):
    rows = [{"prompt": f"Is {n} even?", "completion": NEW[n % 2]} for n in range(8)]
    for split, part in (("train", rows), ("eval", [{**row, "prompt": f"And {row['prompt']}"} for row in rows])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    stages = stages or (
        "{coarse: {method: lora, rank: 2, epochs: 2, batch_size: 4, learning_rate: 1e-2, trainable_tokens: [<a>, <b>]},"
        " fine: {method: reft, rank: 2, positions: l2, epochs: 1, batch_size: 4}}"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: t\nmodel: {{name: '{folder}', device: cpu}}\n"
        f"task: {{name: rows, train: {tmp_path / 'train.jsonl'}, eval: {tmp_path / 'eval.jsonl'}}}\n"
        f"stages: {stages}\n"
    )
    return load_recipe(path, settings, output=str(tmp_path / "run"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model's folder and the adapter directory of a run on it, trained when it is first asked for."""
    made = {}

    def train(tied: bool = True, architecture: str = "llama"):
        if (tied, architecture) not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{tied}")
            model = write_base(folder / "model", tied, architecture)
            made[tied, architecture] = model, heft.train(recipe(model, folder)).directory / "adapter"
        return made[tied, architecture]

    return train


@pytest.fixture
def without_hashes(trained, tmp_path):
    """A copy of an adapter directory whose files may be changed."""
    return tiny.forget_hashes(shutil.copytree(trained()[1], tmp_path / "adapter"))


def logits(model, ids=(70, 259, 80, 260, 90)):
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        *(("llama", True), ("llama", False), ("gpt2", True), ("gemma3", False)),
        *(pytest.param(*each, marks=pytest.mark.long) for each in (("gpt2", False), ("gemma3", True))),
    ],
)
def test_new_tokens_train_save_and_load_and_nothing_else_of_the_embedding(trained, tied, architecture):
    folder, adapter = trained(tied, architecture)
    model, _ = heft.load(adapter)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    rows = model.get_input_embeddings().weight
    before = plain.get_input_embeddings().weight
    assert torch.equal(rows[:259], before[:259])
    assert not torch.isclose(rows[259:], before[259:]).all(1).any()
    head = model.get_output_embeddings().weight
    assert torch.equal(head, rows if tied else plain.get_output_embeddings().weight)


@pytest.mark.parametrize("tied", [True, False])
def test_a_lora_folder_with_new_tokens_gives_equal_logits_in_plain_peft(base, tmp_path, tied):
    folder = base(tied)
    stages = "{coarse: {method: lora, rank: 2, epochs: 1, batch_size: 8, trainable_tokens: [<a>, <b>]}}"
    heft.train(recipe(folder, tmp_path, stages=stages))
    ours, _ = heft.load(tmp_path / "run" / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    without = logits(plain)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "run" / "adapter" / "coarse").eval()
    assert torch.equal(logits(ours), logits(theirs))
    assert not torch.allclose(logits(ours), without)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("trainable", ["one", pytest.param("two", marks=pytest.mark.long), ["one", "two"], "fine"])
def test_adapters_with_new_tokens_are_trained_on_from_where_they_were(base, tmp_path, tied, trainable):
    """One adapter trains a token, another one another, a third none; PEFT takes each to have tokens of its own."""
    tokens = ["trainable_tokens: [<a>], ", "trainable_tokens: [<b>], "]
    lora = [f"{{method: lora, rank: 2, {each}epochs: 1, batch_size: 8, learning_rate: 1e-2}}" for each in (*tokens, "")]
    stages = f"{{one: {lora[0]}, two: {lora[1]}, fine: {lora[2]}}}"
    adapter = heft.train(recipe(base(tied), tmp_path, stages=stages)).directory / "adapter"
    expected = logits(heft.load(adapter)[0])
    model, _ = heft.load(adapter, trainable=trainable)
    assert torch.equal(logits(model), expected)
    names = [trainable] if isinstance(trainable, str) else trainable
    training = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert {name for name in ("one", "two", "fine") for key in training if f".{name}" in key} == set(names)
    assert sum("tokens_delta" in key for key in training) == len({"one", "two"}.intersection(names))
    for parameter in training.values():
        parameter.data += 0.1
    moved = logits(model)
    assert not torch.allclose(moved, expected, atol=1e-3)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(heft.load(tmp_path / "again")[0]), moved)


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_are_not_trained_where_peft_would_leave_out_the_bias_of_the_head(tied):
    model = tiny.tiny_model("phi", vocab_size=261, tie_word_embeddings=tied)
    with torch.no_grad():
        model.lm_head.bias.normal_()
    plain = logits(model)
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[5])
    (adapter,) = adapters_of("a", LoraStage(method="lora", rank=2, trainable_tokens=["a"], steps=1))
    faults = adapter.faults(model)
    if not tied:
        assert faults == []
        assert torch.allclose(logits(heft.stack(model, config)), plain, atol=1e-5)
        return
    assert not torch.allclose(logits(get_peft_model(copy.deepcopy(model), config).eval()), plain, atol=0.1)
    assert faults[0].startswith("trainable_tokens: the output head of this model shares its weights with the input")
    with pytest.raises(HeftError, match="and has a bias, which PEFT leaves out .* remove trainable_token_indices"):
        heft.stack(model, config)


@pytest.mark.parametrize("tied", [True, False])
def test_every_check_of_verify_holds_with_new_tokens(trained, tied):
    found = verify(trained(tied)[1], rows=3).findings
    failed = [finding.lines() for finding in found if finding.state == FAILED]
    assert failed == []


def test_two_stages_train_tokens_of_their_own_and_never_the_same(base, tmp_path):
    stage = "{{method: lora, rank: 2, epochs: 1, batch_size: 8, trainable_tokens: [{}]}}"
    stages = f"{{one: {stage.format('<a>')}, two: {stage.format('<b>')}}}"
    folder = base()
    heft.train(recipe(folder, tmp_path, stages=stages))
    model, _ = heft.load(tmp_path / "run" / "adapter")
    changed = model.get_input_embeddings().weight - AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
    assert changed.abs().amax(1).nonzero().squeeze(1).tolist() == [259, 260]
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(HeftError, match="stages.two: trainable_tokens: stage one trains '<a>' already"):
        heft.train(
            recipe(
                folder,
                tmp_path,
                "stages.two.trainable_tokens=[<a>]",
                stages=stages,
            )
        )


def test_a_plan_counts_new_tokens_among_what_trains(base, tmp_path):
    folder = base()
    with_tokens = make_plan(recipe(folder, tmp_path), probe_seconds=0).stages[0]
    without = make_plan(recipe(folder, tmp_path, "stages.coarse.trainable_tokens=[]"), probe_seconds=0).stages[0]
    assert with_tokens.trainable_parameters - without.trainable_parameters == 2 * 32


def test_a_text_that_is_no_single_token_or_has_no_embedding_is_named():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(NEW)
    assert token_ids(tokenizer, ["<a>", "x", "<b>"], 261) == [259, tokenizer("x")["input_ids"][0], 260]
    with pytest.raises(HeftError, match="'xy' is not a single token of this model .it is 'x', 'y'.") as caught:
        token_ids(tokenizer, ["xy", "<b>"], 260)
    assert "'<b>' has id 260 and the model has embeddings for 0 to 259" in str(caught.value)
    with pytest.raises(HeftError, match="entries are the same token: 'Ġ'"):
        token_ids(tokenizer, [" ", "Ġ"], 261)


def test_new_tokens_are_refused_with_a_start_that_changes_the_base():
    with pytest.raises(HeftError, match="trainable_tokens cannot be trained with init: pissa"):
        LoraStage(method="lora", init="pissa", trainable_tokens=["<a>"])


@pytest.mark.parametrize("value", [[-1], [1, 1], ["a"], {"lm_head": [1]}, [], [2**40], True])
def test_a_directory_that_asks_for_odd_tokens_is_refused(without_hashes, value):
    path = without_hashes / "coarse" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trainable_token_indices": value}))
    with pytest.raises(HeftError, match=r"trainable_token_indices(\[0\])?: "):
        heft.load(without_hashes)


def test_a_directory_with_a_token_beyond_the_embedding_is_refused(without_hashes):
    path = without_hashes / "coarse" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trainable_token_indices": [5, 999]}))
    with pytest.raises(HeftError, match="an embedding for token 999, and the model has 261"):
        heft.load(without_hashes)
