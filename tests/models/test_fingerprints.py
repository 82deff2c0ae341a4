"""Fingerprints of tokenizers; those of models are in test_models.py, where they are loaded."""

import json

import tiny
from heft.builtin import byte_tokenizer
from heft.models.fingerprints import tokenizer_fingerprint
from heft.models.load import load_tokenizer
from heft.recipe.model import ModelSettings


def saved(tmp_path, change):
    """A saved tokenizer with its two files changed, loaded again."""
    byte_tokenizer().save_pretrained(tmp_path)
    paths = [tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"]
    values = [json.loads(path.read_text()) for path in paths]
    change(*values)
    for path, value in zip(paths, values, strict=True):
        path.write_text(json.dumps(value))
    tiny.tiny_model().config.save_pretrained(tmp_path)
    return load_tokenizer(ModelSettings(name=str(tmp_path)))


def nothing(whole, config):
    pass


def rotate_vocabulary(whole, config):
    vocabulary = whole["model"]["vocab"]
    plain = [token for token, number in vocabulary.items() if number >= 3]
    ids = [vocabulary[token] for token in plain]
    vocabulary.update(zip(plain, ids[1:] + ids[:1], strict=True))


def test_a_saved_tokenizer_has_the_fingerprint_of_the_one_saved(tmp_path):
    assert tokenizer_fingerprint(saved(tmp_path, nothing), False) == tokenizer_fingerprint(byte_tokenizer(), False)


def test_another_vocabulary_or_end_token_is_another_tokenizer(tmp_path):
    own = tokenizer_fingerprint(byte_tokenizer(), False)
    assert tokenizer_fingerprint(saved(tmp_path, rotate_vocabulary), False) != own
    assert tokenizer_fingerprint(saved(tmp_path, lambda _, config: config.update(eos_token="<bos>")), False) != own


def test_the_chat_template_counts_where_prompts_go_through_it():
    first, second = byte_tokenizer(), byte_tokenizer()
    first.chat_template, second.chat_template = "{{ messages[0].content }}", "Q: {{ messages[0].content }}"
    assert tokenizer_fingerprint(first, False) == tokenizer_fingerprint(second, False)
    assert tokenizer_fingerprint(first, True) != tokenizer_fingerprint(second, True)
