"""`heft generate`: the prompt is wrapped as in training, and only a switch that is one decides that."""

import json
import shutil

import pytest

import heft
from commands import heft as command
from heft.builtin import byte_tokenizer
from heft.cli.generate import generate as generate_command
from heft.errors import HeftError
from heft.prediction import prompts as generation
from tiny_recipe import write_recipe

STAGES = "{fine: {method: reft, rank: 2, positions: l1, steps: 1, batch_size: 4}}"
PLAIN, WRAPPED = "Where?", "<user>Where?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    path = write_recipe(folder, STAGES)
    path.write_text(f"{path.read_text()}output: {folder / 'run'}\n")
    return heft.train(path).directory / "adapter"


@pytest.fixture
def asked(trained, tmp_path, monkeypatch):
    """Runs the command with other settings of the task, and returns the prompt that the model was given."""

    def templated():
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        return tokenizer

    def run(task: dict, chat_template: bool | None = None) -> str:
        directory = shutil.copytree(trained, tmp_path / "adapter", dirs_exist_ok=True)
        manifest = json.loads((trained / "heft.json").read_text())
        (directory / "heft.json").write_text(json.dumps(manifest | {"task": task, "tokenizer_fingerprint": None}))
        prompts = []

        def generate(model, tokenizer, given, **options):
            prompts.extend(tokenizer.decode(ids) for ids in given)
            return ["there"]

        monkeypatch.setattr("heft.models.load.byte_tokenizer", templated)
        monkeypatch.setattr(generation, "generate_texts", generate)
        generate_command(directory, [PLAIN], text=True, max_new_tokens=4, chat_template=chat_template)
        return prompts[0]

    return run


@pytest.mark.parametrize(("setting", "expected"), [({}, PLAIN), ({"chat_template": True}, WRAPPED)])
def test_a_prompt_is_wrapped_as_it_was_in_training(asked, setting, expected):
    assert asked({"name": "whereabouts", **setting}) == expected


@pytest.mark.parametrize("value", ["false", "true", 1, None, []])
def test_a_setting_that_is_no_switch_is_refused_as_heft_eval_refuses_it(asked, value):
    told = r"give --chat-template or --no-chat-template\n .*heft.json: task.chat_template: expected true or false; got"
    with pytest.raises(HeftError, match=told):
        asked({"name": "whereabouts", "chat_template": value})


@pytest.mark.parametrize(("chat_template", "expected"), [(True, WRAPPED), (False, PLAIN)])
def test_what_the_person_says_goes_before_what_the_directory_says(asked, chat_template, expected):
    assert asked({"name": "whereabouts", "chat_template": "false"}, chat_template) == expected
    assert asked({"name": "my_own"}, chat_template) == expected


@pytest.mark.parametrize(("seed", "status"), [(2**64 - 1, 0), (2**64, 2)])
def test_a_seed_is_one_that_torch_takes(trained, seed, status):
    words = ["--text", "--max-new-tokens", "1", "--temperature", "0.7", "--seed", seed]
    assert command("generate", trained, PLAIN, *words).returncode == status
