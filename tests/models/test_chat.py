"""Chat templates: the day's date, arguments, thinking blocks."""

import datetime as clock
import json
import threading
import time

import pytest
from transformers.utils import chat_template_utils

import heft
import tiny
from heft.cli.compare import compare as compare_command
from heft.cli.generate import generate as generate_command
from heft.compare.comparison import compare
from heft.compare.inputs import read_inputs
from heft.data.encode import Encoder
from heft.errors import HeftError
from heft.models import chat
from heft.models.chat import ChatTemplate
from heft.prediction import prompts as generation
from heft.recipe.files import load_recipe
from heft.run.stage_loop import StageLoop
from heft.runtime.reporter import Reporter
from heft.tasks import examples_of, task_for
from heft.tasks.example import choice_example, generation_example
from heft.tasks.rows import RowsSettings

DATED = (
    "Today is {{ strftime_now('%d %b %Y, %H:%M') }}.\n"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}"
)
LLAMA_3 = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }} {{ messages[0].content }}"
)
THINKING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: <think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n{% endif %}{% endif %}"
)
STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 8},"
    " fine: {method: reft, rank: 2, positions: l2, steps: 2, batch_size: 8}}"
)


def templated(template):
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def day(monkeypatch):
    """Sets today's date, for heft and for transformers' templates."""

    def set_to(iso: str) -> None:
        class Clock(clock.datetime):
            @classmethod
            def now(cls):
                return cls.fromisoformat(f"{iso}T13:45:00")

        monkeypatch.setattr(chat, "datetime", Clock)
        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    return set_to


@pytest.fixture
def dated_recipe(tmp_path, monkeypatch, recipe_file):
    monkeypatch.setattr("heft.models.load.byte_tokenizer", lambda: templated(DATED))
    path = recipe_file(STAGES, task="{name: whereabouts, train_size: 24, eval_size: 10, chat_template: true}")

    def recipe(output: str, *settings: str):
        return load_recipe(path, settings, output=str(tmp_path / output))

    return recipe


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("template", [DATED, LLAMA_3])
def test_a_template_is_given_the_date_that_is_fixed_and_transformers_keeps_its_clock(template, day):
    day("2026-11-26")
    own = chat_template_utils.datetime
    tokenizer = templated(template)
    assert "26 Nov 2026" in ChatTemplate(tokenizer).prompt("Q")
    assert "05 Mar 2020" in ChatTemplate(tokenizer, date="2020-03-05").prompt("Q")
    assert chat_template_utils.datetime is own
    assert ChatTemplate(tokenizer).uses_date
    assert not ChatTemplate(templated(THINKING)).uses_date


def test_templates_in_two_threads_have_each_their_own_date_and_leave_the_clock(day):
    day("2026-11-26")
    own, found = chat_template_utils.datetime, {}
    second_is_within, first_is_out = threading.Event(), threading.Event()

    def write(name, date, before):
        tokenizer = templated(DATED)
        apply = tokenizer.apply_chat_template
        tokenizer.apply_chat_template = lambda *args, **options: (before(), apply(*args, **options))[1]
        found[name] = ChatTemplate(tokenizer, date=date).prompt("Q")

    def within():
        second_is_within.set()
        first_is_out.wait(2)

    first = threading.Thread(target=write, args=("first", "2020-03-05", lambda: second_is_within.wait(0.5)))
    second = threading.Thread(target=write, args=("second", "2021-03-05", within))
    first.start()
    time.sleep(0.1)
    second.start()
    first.join()
    first_is_out.set()
    second.join()
    assert chat_template_utils.datetime is own
    assert "05 Mar 2020" in found["first"]
    assert "05 Mar 2021" in found["second"]


def test_a_date_argument_goes_before_the_clock():
    template = ChatTemplate(templated(LLAMA_3), {"date_string": "26 Jul 2024"}, "2020-03-05")
    assert template.prompt("Q") == "26 Jul 2024 Q"
    assert not template.uses_date


def test_prompts_of_two_days_differ_and_have_one_fingerprint():
    example = choice_example("t", "Q:", ("yes", "no"), 0)
    rows = [
        Encoder(templated(DATED), 99, chat_template=True, template_date=date)([example])[0]
        for date in ("2026-11-26", "2026-12-01")
    ]
    assert rows[0].prompt != rows[1].prompt
    assert rows[0].fingerprint == rows[1].fingerprint
    other = Encoder(templated(DATED), 99, chat_template=True)([choice_example("t", "R:", ("yes", "no"), 0)])[0]
    assert other.fingerprint != rows[0].fingerprint


def test_of_a_prompt_that_is_cut_the_fingerprint_is_of_what_is_left():
    example = choice_example("t", f"{'long ' * 20}Q:", ("yes", "no"), 0)
    rows = [
        Encoder(templated(DATED), length, chat_template=True, template_date=date)([example])[0]
        for length, date in ((60, "2026-11-26"), (60, "2026-12-01"), (59, "2026-11-26"), (500, "2026-11-26"))
    ]
    assert [row.cut > 0 for row in rows] == [True, True, True, False]
    assert rows[0].fingerprint == rows[1].fingerprint
    assert len({row.fingerprint for row in rows}) == 3


def test_a_run_goes_on_the_next_day_with_the_date_that_it_was_begun_with(dated_recipe, day, tmp_path, monkeypatch):
    day("2026-11-26")
    whole, cut = Notes(), dated_recipe("cut")
    heft.train(dated_recipe("whole"), whole)
    assert any("2026-11-26" in line and "task.template_date" in line for line in whole.lines)

    evaluate = StageLoop.evaluate

    def interrupt(loop, name, **figures):
        if name != "base":
            raise KeyboardInterrupt
        return evaluate(loop, name, **figures)

    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            heft.train(cut)
    day("2026-11-27")
    heft.train(cut, resume=True)
    manifests = [json.loads((tmp_path / run / "manifest.json").read_text()) for run in ("whole", "cut")]
    assert [manifest["template_date"] for manifest in manifests] == ["2026-11-26"] * 2
    for file in ("adapter/coarse/adapter_model.safetensors", "adapter/fine/adapter_model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    for records in ("base", "coarse", "fine"):
        file = f"records/{records}.jsonl"
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


def test_a_finished_run_and_an_adapter_keep_the_date_of_training(dated_recipe, day, tmp_path, monkeypatch):
    day("2026-11-26")
    heft.train(dated_recipe("run"))
    day("2027-01-01")
    assert heft.train(dated_recipe("run"), resume=True).stages
    task = json.loads((tmp_path / "run" / "adapter" / "heft.json").read_text())["task"]
    assert task["template_date"] == "2026-11-26"
    prompts = []

    def generate(model, tokenizer, given, **options):
        prompts.extend(tokenizer.decode(ids) for ids in given)
        return ["there"]

    monkeypatch.setattr(generation, "generate_texts", generate)
    generate_command(tmp_path / "run" / "adapter", ["Where?"], text=True, max_new_tokens=4)
    assert prompts == ["Today is 26 Nov 2026, 00:00.\nuser: Where?\nbot: "]


def test_runs_of_two_days_pair_and_a_note_says_which_days(dated_recipe, day, tmp_path, capsys):
    for iso, run in (("2026-11-26", "one"), ("2026-11-27", "two")):
        day(iso)
        heft.train(dated_recipe(run, "seed=1"))
    found = read_inputs([tmp_path / "one", tmp_path / "two"])
    assert compare(found.arms).pairs[0].n == 10
    assert any("2026-11-26, 2026-11-27" in note for note in found.notes)
    same = read_inputs([tmp_path / "one"])
    assert same.notes == []
    compare_command([str(tmp_path / "one"), str(tmp_path / "two")])
    assert "runs are of several days" in " ".join(capsys.readouterr().out.split())


def test_a_date_that_the_recipe_gives_is_the_one_that_is_used(dated_recipe, day, tmp_path):
    day("2026-11-26")
    heft.train(dated_recipe("run", "task.template_date=2020-03-05"))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["template_date"] == "2020-03-05"
    with pytest.raises(HeftError, match="task.template_date: 2020-03-05, not 2021-01-01"):
        heft.train(dated_recipe("run", "task.template_date=2021-01-01"), resume=True)


def test_a_date_that_the_template_does_not_write_is_refused(tmp_path, monkeypatch, recipe_file):
    monkeypatch.setattr("heft.models.load.byte_tokenizer", lambda: templated("{{ messages[0].content }}"))
    task = "{name: whereabouts, train_size: 24, eval_size: 10, chat_template: true, template_date: '2020-03-05'}"
    with pytest.raises(HeftError, match=r"template_date 2020-03-05 has no effect: the chat template .* writes no date"):
        heft.train(load_recipe(recipe_file(STAGES, task=task), output=str(tmp_path / "run")))


def test_arguments_reach_the_template_and_close_its_thinking_block():
    tokenizer = templated(THINKING)
    example = generation_example("t", "Q:", " yes", "yes")
    rows = [
        Encoder(tokenizer, 99, chat_template=True, template_args=args)([example])[0]
        for args in ({}, {"enable_thinking": False})
    ]
    assert [tokenizer.decode(row.prompt) for row in rows] == [
        "user: Q:\nbot: <think>\n",
        "user: Q:\nbot: <think>\n</think>\n",
    ]
    assert ChatTemplate(tokenizer).opens_thinking == "<think>"
    assert ChatTemplate(tokenizer, {"enable_thinking": False}).opens_thinking is None
    asked_about = "Is <think> a tag?"
    assert ChatTemplate(templated("{{ messages[0].content }}")).prompt(asked_about) == asked_about
    assert ChatTemplate(templated("{{ messages[0].content }}")).opens_thinking is None


def test_an_argument_that_the_template_does_not_know_is_an_error():
    with pytest.raises(HeftError, match="has no variable 'enable_thinkin'"):
        ChatTemplate(templated(THINKING), {"enable_thinkin": False}).prompt("Q")


def test_of_templates_by_names_the_default_is_the_one():
    several = templated({"default": THINKING, "rag": "{{ documents }}"})
    assert ChatTemplate(several, {"enable_thinking": False}).prompt("Q") == "user: Q\nbot: <think>\n</think>\n"
    with pytest.raises(HeftError, match="has no variable 'documents'"):
        ChatTemplate(several, {"documents": []}).prompt("Q")
    for args in ({}, {"documents": []}):
        with pytest.raises(HeftError, match="no chat template, or none named default"):
            ChatTemplate(templated({"rag": "{{ documents }}"}), args).prompt("Q")


FILES = {"train": "t", "eval": "e"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"chat_template_args": {"enable_thinking": False}}, "with chat_template: true only"),
        ({"template_date": "2026-01-31"}, "with chat_template: true only"),
        ({"chat_template": True, "template_date": "31.1.2026"}, "expected a date as YYYY-MM-DD"),
        ({"chat_template": True, "template_date": "20260131"}, "expected a date as YYYY-MM-DD"),
        ({"chat_template": True, "chat_template_args": {"messages": "x"}}, "messages cannot be set"),
        ({"chat_template": True, "chat_template_args": {"add_generation_prompt": False}}, "cannot be set"),
    ],
)
def test_settings_of_the_template_that_have_no_effect_or_no_sense_are_refused(settings, told):
    with pytest.raises(HeftError, match=told):
        RowsSettings(**FILES, **settings)


def test_arguments_are_recorded_and_read_back(tmp_path, monkeypatch, recipe_file):
    monkeypatch.setattr("heft.models.load.byte_tokenizer", lambda: templated(THINKING))
    task = "{name: whereabouts, train_size: 24, eval_size: 10, chat_template: true, %s}"
    path = recipe_file(STAGES, task=task % "chat_template_args: {enable_thinking: false}")
    heft.train(load_recipe(path, output=str(tmp_path / "run")))
    assert load_recipe(tmp_path / "run" / "recipe.yaml").task.chat_template_args == {"enable_thinking": False}
    recorded = json.loads((tmp_path / "run" / "adapter" / "heft.json").read_text())["task"]
    assert recorded["chat_template_args"] == {"enable_thinking": False}
    path = recipe_file(STAGES, task=task % "max_length: 500")
    with pytest.raises(
        HeftError, match=r"thinking block \(<think>\).*chat_template_args to \{enable_thinking: false\}"
    ):
        heft.train(load_recipe(path, output=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("prompt", "completion", "turn"),
    [
        ("def f(x):", "    return x", "    return x"),
        ("def f(x):\n", "    return x", "    return x"),
        ("def f(x):", "\n    return x\n    # done", "    return x\n    # done"),
        ("Q:", " yes", "yes"),
        ("Q: ", "yes", "yes"),
        ("Q:", "\n\n\tyes ", "\tyes"),
        ("Q:", "  yes", "  yes"),
    ],
)
def test_a_completion_keeps_its_indentation_in_a_chat(tmp_path, prompt, completion, turn):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "completion": completion}))
    examples = examples_of(task_for(RowsSettings(train=str(path), eval=str(path))), "train")
    tokenizer = templated("{{ messages[0].content }}>")
    (row,) = Encoder(tokenizer, 99, chat_template=True)(examples)
    assert tokenizer.decode(row.answer[:-1]) == turn
    (plain,) = Encoder(tokenizer, 99)(examples)
    between = prompt[len(prompt.rstrip()) :] + completion[: len(completion) - len(completion.lstrip())]
    assert tokenizer.decode(plain.answer[:-1]) == (between or " ") + completion.strip()
