"""`heft generate`: several prompts, files, standard input, labels, drawn tokens, a conversation."""

import io
import json
import sys
from collections import Counter

import pytest
import torch

import heft
from heft.builtin import byte_tokenizer
from heft.cli.generate import generate
from heft.errors import HeftError
from heft.evaluation.generation import Sampling, generate_texts
from heft.models import load
from heft.models.endings import text_of
from heft.prediction.opening import opening
from heft.prediction.predict import predict_rows
from heft.tasks import task_for
from heft.text.escape import escape_controls
from tiny import tiny_model
from tiny_recipe import write_recipe

STAGES = "{fine: {method: reft, rank: 2, positions: l1, steps: 2, batch_size: 4}}"
PROMPTS = ["Anna went to the garden. Where is Anna now? Anna is in the", "Where is Ben now? Ben is in the"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    return heft.train(write_recipe(folder, STAGES, f"output: {folder / 'run'}")).directory


@pytest.fixture
def said(run, capsys, monkeypatch):
    """Runs the command, with something on standard input, and returns what it printed."""

    def ask(*prompts, stdin=None, **options):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        generate(run, list(prompts), **options)
        return capsys.readouterr().out

    return ask


@pytest.fixture(scope="module")
def loaded(run):
    return heft.load(run)


def test_a_device_can_be_named(said):
    absent = "cuda" if torch.backends.mps.is_available() else "mps"
    with pytest.raises(HeftError, match=f"model.device is {absent}, which this machine does not have"):
        said(*PROMPTS, device=absent)
    assert said(*PROMPTS, device="cpu") == said(*PROMPTS)


def plain(loaded, prompt, count=5):
    model, tokenizer = loaded
    ids = [*tokenizer(prompt)["input_ids"]]
    return generate_texts(model, tokenizer, [ids], batch_size=1, max_new_tokens=count)[0]


def test_an_adapter_of_a_task_with_choices_answers_with_its_label_and_its_probability(said, run):
    answering = opening(run).load()
    rows = list(task_for(answering.task).rows("eval"))[:1]
    (example,) = (task_for(answering.task).example(row) for _, row in rows)
    (expected,) = predict_rows(answering, rows).answers
    assert said(example.prompt) == f"{expected.answer} ({100 * expected.probability:.1f} %)\n"


def test_with_text_it_generates(said, loaded):
    assert said(PROMPTS[0], text=True, max_new_tokens=5).rstrip("\n") == plain(loaded, PROMPTS[0])


def test_several_prompts_are_answered_in_order_as_json_lines_however_they_are_given(said, loaded, tmp_path):
    expected = [{"prompt": prompt, "answer": plain(loaded, prompt)} for prompt in PROMPTS]
    options = {"text": True, "max_new_tokens": 5}
    (tmp_path / "prompts.txt").write_text("\ufeff" + "\r\n\r\n".join(PROMPTS))
    (tmp_path / "prompts.csv").write_text("id,prompt\n" + "".join(f"{i},{p}\n" for i, p in enumerate(PROMPTS)))
    for printed in (
        said(*PROMPTS, **options),
        said("-", stdin="\n".join(PROMPTS), **options),
        said(stdin="\n".join(PROMPTS) + "\n", **options),
        said(file=tmp_path / "prompts.txt", **options),
        said(file=tmp_path / "prompts.csv", **options),
    ):
        assert [json.loads(line) for line in printed.splitlines()] == expected


def test_a_table_with_the_tasks_columns_is_asked_as_the_task_asks(said, run, tmp_path):
    answering = opening(run).load()
    rows = list(task_for(answering.task).rows("eval"))[:3]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _, row in rows))
    found = [json.loads(line) for line in said(file=file).splitlines()]
    expected = predict_rows(answering, rows).answers
    assert [each["answer"] for each in found] == [each.answer for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(dict(zip(other.labels, other.probabilities, strict=True)))
    file.write_text('{"question": "Where?"}\n')
    with pytest.raises(HeftError, match="has the columns question; expected a column prompt, or those that"):
        said(file=file)


def test_a_row_without_a_prompt_is_told_by_its_place_and_a_number_is_one(said, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": 0}\n{"prompt": "Where?"}\n')
    assert [json.loads(line)["prompt"] for line in said(file=file, text=True).splitlines()] == ["0", "Where?"]
    file.write_text('{"prompt": "Where?"}\n{"prompt": null}\n{"prompt": " "}\n{"other": 1}\n')
    with pytest.raises(HeftError, match=r"(?s)3 of 4 rows cannot be asked:.*jsonl:2: has no prompt \(and in 2 more"):
        said(file=file)


def test_the_name_of_a_file_is_not_taken_for_a_prompt(said, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("prompt\nWhere?\n")
    with pytest.raises(HeftError, match=r"rows.csv' is a file, and a prompt was expected: give --file .*heft predict"):
        said(str(file))
    with pytest.raises(HeftError, match="looks like the name of a file, and there is none"):
        said("tickets.csv")
    with pytest.raises(HeftError, match="there is no such file"):
        said(file=tmp_path / "none.txt")


def test_what_contradicts_itself_is_refused(said):
    for options, told in (
        ({"top_p": 0.5}, "above 0 only"),
        ({"seed": 1}, "above 0 only"),
        ({"temperature": 1.0, "top_p": 0.0}, "leaves no token"),
        ({"chat": True, "file": "x"}, "leave out prompts"),
        ({"stdin": ""}, "no prompts on standard input"),
        ({"stdin": "Where?", "temperature": 0.7}, "is one of the task's labels: give --text too"),
        ({"stdin": "Where?", "encoding": "cp1252"}, "--encoding is of a file: give --file FILE too"),
    ):
        with pytest.raises(HeftError, match=told):
            said(**options)
    with pytest.raises(HeftError, match="got both"):
        said("Where?", file="x")
    with pytest.raises(HeftError, match="prompt is empty"):
        said(" ")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("chat", [False, True])
def test_input_in_another_encoding_is_said_with_a_way_out(run, monkeypatch, errors, chat):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ol\xe9\n"), "utf-8", errors))
    with pytest.raises(HeftError, match="standard input is not UTF-8; .* --file FILE --encoding NAME"):
        generate(run, [], chat=chat)


def test_drawn_tokens_repeat_with_their_seed_and_are_greedy_near_temperature_zero(said, loaded):
    options = {"text": True, "max_new_tokens": 12, "temperature": 1.5}
    first, again, other = (said(PROMPTS[0], seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    greedy = said(PROMPTS[0], text=True, max_new_tokens=12)
    for temperature in (1e-4, 1e-40, 1e-300):
        assert said(PROMPTS[0], **{**options, "temperature": temperature}) == greedy
    assert said(PROMPTS[0], **{**options, "top_p": 1e-6}) == greedy


def test_tokens_are_drawn_with_the_models_probabilities(loaded):
    model, tokenizer = loaded
    ids = tokenizer(PROMPTS[0])["input_ids"]
    with torch.no_grad():
        probabilities = (model(torch.tensor([ids])).logits[0, -1] / 0.05).softmax(-1).tolist()
    expected = Counter()
    for token, probability in enumerate(probabilities):
        expected[text_of(tokenizer, [token], [tokenizer.eos_token_id])] += probability
    sampling = Sampling(temperature=0.05)
    texts = generate_texts(model, tokenizer, [ids] * 400, batch_size=400, max_new_tokens=1, sampling=sampling)
    found = Counter(texts)
    assert len(found) > 5
    for text, p in expected.most_common(5):
        assert abs(found[text] / 400 - p) < 4 * (p * (1 - p) / 400) ** 0.5


def test_a_conversation_shows_the_model_all_turns_so_far(said, loaded, run, monkeypatch):
    def templated():
        tokenizer = made()
        tokenizer.chat_template = (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        return tokenizer

    made = load.byte_tokenizer
    with pytest.raises(HeftError, match="no chat template"):
        said(chat=True, stdin="Hello\n")
    monkeypatch.setattr("heft.models.load.byte_tokenizer", templated)
    printed = said(chat=True, stdin="Hello\n\nAgain\n", max_new_tokens=4)
    model, tokenizer = loaded

    def reply(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return generate_texts(model, tokenizer, [ids], batch_size=1, max_new_tokens=4)[0]

    first = reply("<user>Hello<assistant>")
    second = reply(f"<user>Hello<assistant>{first}<user>Again<assistant>")
    assert printed == "".join(escape_controls(text.strip()) + "\n" for text in (first, second))


def test_a_text_longer_than_the_model_was_made_for_is_warned_of_once(run, capsys):
    positions = heft.load(run)[0].config.max_position_embeddings
    generate(run, ["a" * (positions - 1)], text=True, max_new_tokens=2)
    assert capsys.readouterr().err == ""
    generate(run, ["a" * (positions - 1), "a" * positions], text=True, max_new_tokens=3)
    told = capsys.readouterr().err
    assert f"and the model was made for {positions:,}" in told
    assert told.count("warning:") == 1
    generate(run, ["a" * positions])
    assert f"and the model was made for {positions:,}" in capsys.readouterr().err


def test_a_prompt_to_label_that_is_longer_than_learned_positions_is_refused(tmp_path):
    tiny_model("gpt2", max_position_embeddings=64, vocab_size=len(byte_tokenizer())).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    rows = [{"text": f"thing {number}", "label": ["dear", "cheap"][number % 2]} for number in range(10)]
    task = {
        "name": "rows",
        "train": rows,
        "prompt": "{text}:",
        "answer": "label",
        "choices": "labels",
        "max_length": 40,
    }
    stages = {"fine": {"method": "reft", "rank": 2, "positions": "l1", "steps": 1, "batch_size": 4}}
    values = {"name": "short", "model": {"name": str(tmp_path / "base")}, "task": task, "stages": stages}
    run = heft.train({**values, "output": str(tmp_path / "run")}).directory
    with pytest.raises(HeftError, match="the model has 64 positions; shorten the prompt"):
        generate(run, ["a" * 100])


def test_a_prompt_that_is_not_as_rows_of_several_columns_are_is_warned_of(tmp_path, capsys):
    rows = [
        {"text": f"thing {number}", "price": number, "label": ["dear", "cheap"][number % 2]} for number in range(10)
    ]
    task = {"name": "rows", "train": rows, "prompt": "Text: {text}\nPrice: {price}\nLabel:", "answer": "label"}
    stages = {"fine": {"method": "reft", "rank": 2, "positions": "l1", "steps": 1, "batch_size": 4}}
    values = {"name": "two", "model": {"name": "random:tiny-llama"}, "task": {**task, "choices": "labels"}}
    run = heft.train({**values, "stages": stages, "output": str(tmp_path / "run")}).directory
    generate(run, ["thing 3"])
    told = capsys.readouterr().err
    assert told.startswith(r"warning: a prompt is asked as it stands, and rows are asked as 'Text: {text}\nPrice:")
    generate(run, ["Text: thing 3\nPrice: 3\nLabel:"])
    assert capsys.readouterr().err == ""
