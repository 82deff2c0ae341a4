"""Every EOS token that a model or its tokenizer names ends an answer, and what is trained ends as its turns do."""

import json

import pytest
import torch
from transformers import GenerationConfig

import heft
import tiny
from heft.builtin import TINY
from heft.cli.generate import generate
from heft.data.encode import Encoder
from heft.evaluation.generation import generate_texts
from heft.models.endings import end_tokens, text_of
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.recipe.model import ModelSettings
from heft.tasks.example import generation_example
from heft.tasks.rows import RowsSettings
from tokenizers_made import llama_2_style, with_turns

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
PROMPT = [70, 71, 72, 73]


def chatty(template: str = CHATML, *tokens: str):
    return with_turns(tiny.byte_tokenizer(), template, *(tokens or ("<|im_start|>", "<|im_end|>")))


@pytest.mark.parametrize("named", ["one", "several", "with the tokenizer's"])
def test_each_eos_token_of_the_generation_settings_ends_an_answer(named):
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    whole = tiny.likeliest(base.model, PROMPT, 8)
    first = next(i for i in range(2, 8) if whole[i] not in whole[:i])
    eos = {"one": whole[first], "several": [whole[first], 250], "with the tokenizer's": [2, whole[first]]}[named]
    base.model.generation_config = GenerationConfig(eos_token_id=eos)
    texts = generate_texts(base.model, base.tokenizer, [PROMPT], batch_size=1, max_new_tokens=8)
    plain = base.model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=8, pad_token_id=0)[0, 4:]
    assert plain.tolist() == whole[: first + 1]
    assert texts == [base.tokenizer.decode(whole[:first])]


def test_end_tokens_are_those_of_tokenizer_model_and_template_once_each():
    tokenizer = tiny.byte_tokenizer()
    assert end_tokens(tokenizer, None) == [2]
    assert end_tokens(tokenizer, GenerationConfig()) == [2]
    assert end_tokens(tokenizer, GenerationConfig(eos_token_id=7)) == [2, 7]
    assert end_tokens(tokenizer, GenerationConfig(eos_token_id=[9, 2, -1]), 5) == [2, 5, 9]


def test_text_ends_before_an_end_token_and_keeps_special_tokens_that_are_answers():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(["<a>"], special_tokens=True)
    ids = [*tokenizer("yes <a>")["input_ids"], 2, 0, *tokenizer("no")["input_ids"]]
    assert text_of(tokenizer, torch.tensor([1, *ids]), [2]) == "yes <a>"
    assert text_of(tokenizer, ids, [ids[2]]) == "ye"


def test_what_is_trained_ends_with_the_token_that_the_template_writes_after_a_turn():
    tokenizer = chatty()
    example = generation_example("t", "Q:", " yes", "yes")
    (turn,) = Encoder(tokenizer, 99, chat_template=True)([example])
    (plain,) = Encoder(tokenizer, 99)([example])
    conversation = [{"role": "user", "content": "Q:"}, {"role": "assistant", "content": "yes"}]
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert tokenizer.decode([*turn.prompt, *turn.answer]) + "\n" == whole
    assert turn.answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") != tokenizer.eos_token_id
    assert plain.answer[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.content }} END{% endfor %}",
        "{% for m in messages %}{{ m.content }}, then <|im_end|>{% endfor %}",
        "{{ messages[0].content }}",
        "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{{ messages[0].content }}",
    ],
)
def test_where_a_template_ends_turns_with_no_token_answers_end_with_the_tokenizers(template):
    assert Encoder(chatty(template), 99, chat_template=True).answer_end == 2


def test_a_turn_follows_its_prompt_with_the_space_that_the_template_writes():
    tokenizer = with_turns(llama_2_style(), LLAMA_2)
    (row,) = Encoder(tokenizer, 99, chat_template=True)([generation_example("t", "Is it?", " yes", "yes")])
    conversation = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}]
    whole = tokenizer.apply_chat_template(conversation)["input_ids"]
    assert [*row.prompt, *row.answer[:-1]] == whole[: len(row.prompt) + len(row.answer) - 1]
    assert row.answer[-1] == tokenizer.eos_token_id == whole[-1]


@pytest.fixture(scope="module")
def turn_model(tmp_path_factory):
    """A base whose tokenizer's EOS is not what ends its turns, and rows to learn in two minutes less."""
    folder = tmp_path_factory.mktemp("turns")
    tokenizer = chatty()
    model = tiny.tiny_model(vocab_size=len(tokenizer))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [{"prompt": f"Say {word}", "completion": word} for word in ("ab", "ba", "aa", "bb")]
    for split, part in (("train", rows), ("eval", [{**row, "prompt": row["prompt"] + "."} for row in rows])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "recipe.yaml").write_text(
        f"name: t\nmodel: {{name: {folder / 'base'}, device: cpu}}\n"
        f"task: {{name: rows, train: {folder / 'train.jsonl'}, eval: {folder / 'eval.jsonl'},"
        " chat_template: true, max_new_tokens: 12}\n"
        "stages: {coarse: {method: lora, rank: 8, steps: 60, batch_size: 4, learning_rate: 1e-2}}\n"
    )
    heft.train(load_recipe(folder / "recipe.yaml", output=str(folder / "run")))
    return folder


def test_a_trained_turn_ends_in_evaluation_and_in_generation(turn_model, capsys):
    model, tokenizer = heft.load(turn_model / "run" / "adapter")
    task = RowsSettings(train="t", eval=str(turn_model / "eval.jsonl"), chat_template=True, max_new_tokens=12)
    texts = [record.text for record in heft.evaluate(model, tokenizer, task).records]
    assert model.generation_config.eos_token_id == [2, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert all(1 <= len(text) <= 3 for text in texts), texts  # what was learned is two letters, then the end
    generate(turn_model / "run" / "adapter", ["Say ab."], text=True, max_new_tokens=12)
    assert capsys.readouterr().out.strip() == texts[0]
