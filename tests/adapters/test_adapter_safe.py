"""Adapter directories of strangers: nothing in one leads out of it, runs, fetches, hangs or fills the memory."""

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import heft
from heft.adapters.attach import attach, finish
from heft.adapters.directory import save
from heft.adapters.manifest import FORMAT, AdapterEntry, AdapterManifest
from heft.adapters.safety import config_faults
from heft.builtin import TINY, tiny_llama
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraSettings, LoraStage, ReftStage
from pickles import write_pickle
from tiny import forget_hashes

STAGES = {
    "coarse": LoraStage(method="lora", rank=2, targets=["q_proj", "v_proj"], layers=[0, 2], steps=1),
    "fine": ReftStage(method="reft", rank=2, positions="l1", steps=1),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    for name, stage in STAGES.items():
        finish(base.model, attach(base.model, name, stage))
    manifest = AdapterManifest(
        format=FORMAT,
        heft_version="0",
        model=base.settings,
        base_fingerprint=base.fingerprint,
        adapters=[AdapterEntry(name=name, method=stage.method, stage=name) for name, stage in STAGES.items()],
        task={"name": "whereabouts"},
        evaluation={},
    )
    directory = tmp_path_factory.mktemp("made") / "adapter"
    save(directory, base.model, manifest)
    return forget_hashes(directory)  # which a stranger need not give


@pytest.fixture
def directory(made, tmp_path):
    return shutil.copytree(made, tmp_path / "adapter")


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FILES = ["heft.json", "coarse/adapter_config.json", "coarse/adapter_model.safetensors"]


def entries(*names):
    return [{"name": name, "method": "lora", "stage": "coarse"} for name in names]


def refuse(directory, match):
    """Loading is refused, and the model that was given is left as it was."""
    model = tiny_llama().eval()
    with pytest.raises(HeftError, match=match) as error:
        heft.load(directory, model=model)
    assert not hasattr(model, "peft_config")
    return str(error.value)


NAMES = ["..", ".", "", "../coarse", "/etc", "a/b", "a\\b", "coarse\x00", "coarse\n", "C:x", "~", "x" * 101, "x" * 5000]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_a_path_is_refused(directory, name):
    change(directory / "heft.json", adapters=entries(name))
    refuse(directory, "names an adapter")


def test_no_adapter_and_one_of_another_kind_than_its_folder_says_are_refused(directory):
    change(directory / "heft.json", adapters=[])
    refuse(directory, r"adapters: expected a list .* got \[\]")
    change(directory / "heft.json", adapters=[{"name": "fine", "method": "lora", "stage": "fine"}])
    refuse(directory, "calls fine a lora adapter, and its own folder reft")
    change(directory / "heft.json", adapters=[{"name": "fine", "method": "xx", "stage": "fine"}])
    refuse(directory, r"adapters\[0\].method: expected one of lora, reft; got \'xx\'")


def test_a_name_given_twice_is_refused(directory):
    change(directory / "heft.json", adapters=entries("coarse", "coarse"))
    refuse(directory, "twice")


@pytest.mark.parametrize(
    "what", ["coarse", "coarse/adapter_config.json", "coarse/adapter_model.safetensors", "heft.json"]
)
def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_followed(directory, what):
    path = directory / what
    outside = directory.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    refuse(directory, "is a link that leads out")
    path.unlink()
    outside.rename(path.with_name("kept"))
    path.symlink_to(path.with_name("kept"))
    heft.load(directory)


def test_a_link_to_nothing_or_to_itself_is_said(directory):
    shutil.rmtree(directory / "coarse")
    (directory / "coarse").symlink_to("coarse")
    refuse(directory, "is a link that leads out")


@pytest.mark.parametrize("what", FILES)
def test_a_pipe_and_a_folder_in_place_of_a_file_are_refused_at_once(directory, what):
    (directory / what).unlink()
    os.mkfifo(directory / what)
    refuse(directory, "lacks|is not an adapter directory")
    (directory / what).unlink()
    (directory / what).mkdir()
    refuse(directory, "lacks|is not an adapter directory")


def test_pickled_adapters_are_not_opened(directory, tmp_path):
    (directory / "fine" / "adapter_model.safetensors").unlink()
    write_pickle(directory / "fine" / "adapter_model.bin", tmp_path / "mark")
    refuse(directory, r"lacks adapter_model\.safetensors and has adapter_model\.bin: such a file can run any code")
    assert not (tmp_path / "mark").exists()


def test_code_of_the_base_runs_only_if_the_person_says_so(directory, monkeypatch):
    model = json.loads((directory / "heft.json").read_text())["model"]
    change(directory / "heft.json", model=model | {"name": "some/model", "trust_remote_code": True})
    told = refuse(directory, "need code that comes with the model 'some/model'")
    assert "--trust-remote-code" in told
    assert "trust_remote_code=True" in told
    with pytest.raises(HeftError, match="need code that comes with the model"):
        heft.load(directory)
    asked = []
    monkeypatch.setattr("heft.adapters.directory.load_base", lambda settings: asked.append(settings) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        heft.load(directory, trust_remote_code=True)
    assert asked[0].trust_remote_code


CONFIGS = [
    (
        {"peft_type": "PROMPT_TUNING"},
        "peft_type is 'PROMPT_TUNING'; heft reads adapters of LORA, ACTIVATED_LORA and REFT",
    ),
    ({"peft_type": ["LORA"]}, "peft_type is"),
    ({"target_modules": "(.*a)*b"}, "target_modules: expected a list"),
    ({"target_modules": ["(a|a)*b"]}, "no pattern"),
    ({"exclude_modules": "(.*a)*b"}, "exclude_modules: expected a list"),
    ({"rank_pattern": {"(x+x+)+y": 3}}, "no pattern"),
    ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern.q_proj: expected a whole number"),
    ({"alpha_pattern": {"(x+x+)+y": 3}}, "no pattern"),
    ({"r": 10**12}, "r: expected a whole number"),
    ({"r": True}, "r: expected a whole number"),
    ({"lora_alpha": "16"}, "lora_alpha: expected a number"),
    ({"init_lora_weights": "corda", "corda_config": {"cache_file": "x.bin"}}, "corda_config: expected null"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights: expected"),
    ({"megatron_core": "os", "megatron_config": {"a": 1}}, "megatron_config: expected null"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save: expected null"),
    ({"auto_mapping": {"base_model_class": "x", "parent_library": "os"}}, "auto_mapping: expected null"),
    ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices: expected a list"),
    ({"layer_replication": [[0, 10**9]]}, "layer_replication: expected null"),
    ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config: expected"),
    ({"to_dict": 1, "wholly_new": 2}, "to_dict: unknown key; wholly_new: unknown key"),
]


@pytest.mark.parametrize(("changes", "told"), CONFIGS)
def test_a_lora_config_that_heft_would_not_write_is_refused(directory, changes, told):
    change(directory / "coarse" / "adapter_config.json", **changes)
    assert told in refuse(directory, r"adapter_config\.json")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"intervention": "x"}, "intervention"),
        ({"rank": 10**7}, "rank: expected a whole number of at least 1 and at most 1048576"),
        ({"rank": 65}, "rank 65 is above the model's hidden size, 64"),
        ({"layers": [99]}, "this model has 4 layers"),
        ({"positions": "f" + "9" * 30}, "positions: expected text"),
        ({"target_modules": ".*"}, "target_modules: unknown key"),
        ({"layers": 3}, "adapter_config.json"),
    ],
)
def test_a_reft_config_that_does_not_fit_is_refused(directory, changes, told):
    change(directory / "fine" / "adapter_config.json", **changes)
    told_all = refuse(directory, ".")
    assert told in told_all


def test_a_null_key_of_a_later_peft_changes_nothing(directory):
    change(directory / "coarse" / "adapter_config.json", of_a_later_version=None)
    heft.load(directory)


def test_a_rank_that_the_weights_do_not_have_takes_no_memory(directory):
    change(directory / "coarse" / "adapter_config.json", r=2**20)
    told = refuse(directory, "does not fit its base model")
    assert "lora_A.weight is [2, 64], expected [1048576, 64]" in told


def weights(directory):
    return directory / "coarse" / "adapter_model.safetensors"


def header_of(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_weights(path, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def test_a_header_that_lies_about_the_file_is_refused_before_a_tensor_is_read(directory, monkeypatch):
    path = weights(directory)
    header, data = header_of(path)
    name, entry = next((key, value) for key, value in header.items() if key != "__metadata__")
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    monkeypatch.setattr("heft.adapters.directory.load_file", lambda path: pytest.fail("it was read"))
    wrong = {
        "cut off": lambda: path.write_bytes(path.read_bytes()[:-1]),
        "something over": lambda: path.write_bytes(path.read_bytes() + b"x"),
        "empty": lambda: path.write_bytes(b""),
        "no header": lambda: path.write_bytes(b"1234567"),
        "long header": lambda: write_weights(path, header, data, length=2**62),
        "no JSON": lambda: write_weights(path, b"{" * 100_000, data),
        "a list": lambda: write_weights(path, b"[]", data),
        "a key twice": lambda: write_weights(path, json.dumps(header).encode()[:-1] + b', "a": 1, "a": 2}', data),
        "other shape": lambda: write_weights(path, header | {name: entry | {"shape": [2**40, 2**40]}}, data),
        "negative": lambda: write_weights(path, header | {name: entry | {"shape": [-1, -size // 4]}}, data),
        "overlap": lambda: write_weights(path, header | {"again": entry}, data),
        "integers": lambda: write_weights(path, header | {name: entry | {"dtype": "I32"}}, data),
        "past the end": lambda: write_weights(
            path, header | {name: entry | {"data_offsets": [2**45, 2**45 + size]}}, data
        ),
        "odd metadata": lambda: write_weights(path, header | {"__metadata__": {"a": 1}}, data),
    }
    whole = path.read_bytes()
    for what, spoil in wrong.items():
        path.write_bytes(whole)
        spoil()
        assert "adapter_model.safetensors cannot be read" in refuse(directory, "."), what


def test_weights_in_a_lower_precision_are_taken(directory):
    path = weights(directory)
    save_file({key: value.to(torch.bfloat16) for key, value in load_file(path).items()}, path)
    model, _ = heft.load(directory)
    assert model.get_parameter("model.layers.0.self_attn.q_proj.lora_A.coarse.weight").dtype == torch.float32


@pytest.mark.parametrize("where", ["heft.json", "coarse/adapter_config.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"[" * 200_000, b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a": 1e999}', b"\xff", b"\x00", b"1" * 5000]
    + [b'{"a": "\\ud800"}', b" " * (2**20 + 1)],
)
def test_json_that_others_would_read_otherwise_is_refused(directory, where, content):
    (directory / where).write_bytes(content)
    refuse(directory, "cannot be read")


def test_values_of_another_kind_are_named_not_converted(directory):
    change(directory / "heft.json", base_fingerprint=7, task=[])
    assert "base_fingerprint" in refuse(directory, r"heft\.json cannot be read: .*task")


def test_the_commands_ask_for_leave_too(directory, monkeypatch, capsys):
    from heft.cli import main

    model = json.loads((directory / "heft.json").read_text())["model"]
    change(directory / "heft.json", model=model | {"name": "some/model", "trust_remote_code": True})
    asked = []
    for where in (
        "heft.prediction.opening.load_base",
        "heft.adapters.directory.load_base",
        "heft.models.load.load_base",  # last, or the modules above, if first imported here, would keep it
    ):
        monkeypatch.setattr(where, lambda settings: asked.append(settings) or 1 / 0)
    for command in (["eval", str(directory)], ["generate", str(directory), "x"]):
        monkeypatch.setattr("sys.argv", ["heft", *command])
        with pytest.raises(SystemExit):
            main()
        assert "give --trust-remote-code" in capsys.readouterr().err
        assert not asked
        monkeypatch.setattr("sys.argv", ["heft", *command, "--trust-remote-code"])
        with pytest.raises(ZeroDivisionError):
            main()
        assert asked.pop().trust_remote_code


@pytest.mark.parametrize("most", [2**20, 2**20 + 1])
def test_ranks_and_alphas_that_a_recipe_takes_are_read_back(most):
    """A recipe took an alpha of 2e9, and its adapter was refused once it was trained."""
    alpha = 1e9 * most / 2**20
    written = {"r": most, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    written |= {"rank_pattern": {"o_proj": most}, "alpha_pattern": {"o_proj": alpha}}
    given = {"rank": most, "alpha": alpha, "rank_pattern": {"o_proj": most}, "alpha_pattern": {"o_proj": alpha}}
    try:
        LoraSettings(**given)
        refused = set()
    except HeftError as error:
        refused = {name for name in given if f"{name}: expected" in str(error) or f"{name}.o_proj:" in str(error)}
    names = {"r": "rank", "lora_alpha": "alpha"}
    assert {names.get(key[0], key[0]) for key in config_faults("LORA", written)} == refused
    assert refused == (set() if most == 2**20 else set(given))
