"""What `heft.load` gives, as people use it: saved, trained on in other trainers, stacked upon, found by PEFT."""

import copy
import errno
import itertools
import json
import os
import re
import shutil
from contextlib import contextmanager, suppress

import peft
import pytest
import torch
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import heft
import tiny
from calls.examples import text_rows
from calls.trainers import arguments, trainer_of
from heft.adapters.attach import adapter_parameters, attach, finish, inject
from heft.adapters.loaded import prepare
from heft.adapters.manifest import AdapterEntry, read_manifest
from heft.adapters.methods import adapters_of
from heft.alora import ActivatedLoraConfig
from heft.builtin import TINY, tiny_llama
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.reft import ReftConfig
from saving import save_adapters

IDS = torch.arange(3, 40)[None]
STAGES = {
    "coarse": LoraStage(method="lora", rank=2, steps=1),
    "fine": ReftStage(method="reft", rank=2, positions="f2+l3", tied=False, steps=1),
    "both": JointStage(
        method="joint", lora={"positions": "l3"}, reft={"positions": "l2", "intervention": "direft"}, steps=1
    ),
}
NAMES = ["coarse", "fine", "both_lora", "both_reft"]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS, prompt_lengths=[30]).logits


def move(model, names: list[str], scale: float = 0.05) -> None:
    """Change adapters' weights, as training would."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        for parameter in adapter_parameters(base, names).values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """An adapter directory of three stages, the last a joint one."""
    base, entries = load_base(ModelSettings(name=TINY, device="cpu")), []
    for name, stage in STAGES.items():
        attached = attach(base.model, name, stage)
        move(base.model, attached.names)
        finish(base.model, attached)
        entries += [AdapterEntry(name=p.name, method=p.method, stage=name) for p in adapters_of(name, stage)]
    return save_adapters(tmp_path_factory.mktemp("run") / "adapter", base, entries)


def test_save_pretrained_writes_a_directory_that_loads_to_the_same_logits(directory, tmp_path):
    model, _ = heft.load(directory)
    model.save_pretrained(tmp_path / "copy")
    again, _ = heft.load(tmp_path / "copy")
    assert torch.equal(logits(again), logits(model))
    move(model, ["fine"])
    model.save_pretrained(tmp_path / "copy")  # over the first
    assert torch.equal(logits(heft.load(tmp_path / "copy")[0]), logits(model))
    assert not torch.allclose(logits(model), logits(again), atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted([*NAMES, "heft.json"])


def test_what_a_save_that_was_cut_off_left_behind_is_in_no_ones_way(directory, tmp_path):
    model, _ = heft.load(directory)
    (tmp_path / "copy" / ".heft.partial" / "coarse").mkdir(parents=True)
    model.save_pretrained(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted([*NAMES, "heft.json"])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(HeftError, match="file cannot be written"):
        model.save_pretrained(tmp_path / "file")


def test_links_and_files_where_adapters_go_are_replaced_and_what_links_lead_to_stays(directory, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "coarse").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "copy" / "fine").write_text("a file")
    model, _ = heft.load(directory)
    model.save_pretrained(tmp_path / "copy")
    assert torch.equal(logits(heft.load(tmp_path / "copy")[0]), logits(model))
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine"]


class CutOff(BaseException):
    """Nothing of the process runs after it, as after SIGKILL."""


@pytest.mark.parametrize("is_new", [False, pytest.param(True, marks=pytest.mark.long)], ids=["over another", "new"])
def test_a_save_that_is_cut_off_anywhere_leaves_the_old_adapters_or_the_new_ones(directory, tmp_path, is_new):
    model, _ = heft.load(directory)
    old = logits(model)
    move(model, NAMES)
    new, place, calls, found = logits(model), tmp_path / "copy", 0, []
    while True:
        shutil.rmtree(place, ignore_errors=True)
        if not is_new:
            shutil.copytree(directory, place)
        calls += 1
        with cut_off(calls) as done:
            model.save_pretrained(place)
        if is_new and not (place / "heft.json").exists() and not (place / ".heft.whole").exists():
            continue  # of a first save nothing is there before all is
        shown = logits(heft.load(place)[0])
        found.append(torch.equal(shown, new))
        assert found[-1] or torch.equal(shown, old)
        if not done:
            break
    assert calls > 8
    assert found == sorted(found)
    assert len(set(found)) == (1 if is_new else 2)


@contextmanager
def cut_off(at: int):
    """Inside, the call of that number that gives a path another name or removes a folder is the last thing done.

    Gives a list, which has an entry where there were so many calls.
    """
    done, count = [], itertools.count(1)

    def until(function):
        def call(*arguments, **options):
            if done or next(count) == at:
                done.append(True)
                raise CutOff
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree")):
            patch.setattr(module, name, until(getattr(module, name)))
        with suppress(CutOff):
            yield done


def test_a_link_in_place_of_a_save_that_was_cut_off_is_not_followed(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "copy")
    shutil.copytree(directory, tmp_path / "mine")
    (tmp_path / "copy" / ".heft.whole").symlink_to(tmp_path / "mine")
    heft.load(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == sorted([*NAMES, "heft.json"])


def test_a_save_that_was_cut_off_and_cannot_be_finished_is_said(directory, tmp_path, monkeypatch):
    shutil.copytree(directory, tmp_path / "copy")
    shutil.copytree(directory, tmp_path / "copy" / ".heft.whole")

    def refuse(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(HeftError, match="copy was cut off, and has to be finished before it is read: .*read-only"):
        heft.load(tmp_path / "copy")


@pytest.mark.parametrize("trainable", [(), "fine"])
def test_a_trainers_save_model_writes_a_directory_that_loads_to_the_same_logits(directory, tmp_path, trainable):
    model, tokenizer = heft.load(directory, trainable=trainable)
    trainer = trainer_of(model, tmp_path / "out")
    trainer.processing_class = tokenizer
    trainer.save_model(tmp_path / "saved")
    assert torch.equal(logits(heft.load(tmp_path / "saved")[0]), logits(model))


def test_saving_says_which_adapter_is_switched_off_and_writes_nothing(directory, tmp_path):
    model, _ = heft.load(directory, trainable="both_reft")
    model.base_model.set_adapter(["fine"])
    with pytest.raises(HeftError, match="adapters both_reft are switched off"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_saving_refuses_options_that_would_change_nothing(directory, tmp_path):
    model, _ = heft.load(directory)
    with pytest.raises(HeftError, match="takes no push_to_hub, variant: leave that out"):
        model.save_pretrained(tmp_path / "copy", push_to_hub=True, variant="fp16")
    model.save_pretrained(tmp_path / "copy", is_main_process=False)
    assert not (tmp_path / "copy").exists()


def test_saving_shards_takes_the_tensors_of_a_state_dict_or_asks_for_it(directory, tmp_path, monkeypatch):
    """As a Trainer gives it where the model's own tensors are shards."""
    model, _ = heft.load(directory, trainable="fine")
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    expected = logits(model)
    move(model, NAMES)
    model.save_pretrained(tmp_path / "copy", state_dict=whole)
    assert torch.equal(logits(heft.load(tmp_path / "copy")[0]), expected)
    monkeypatch.setattr(torch.nn.Parameter, "full_tensor", None, raising=False)
    with pytest.raises(HeftError, match=r"are shards \(FSDP2\).*pass state_dict"):
        model.save_pretrained(tmp_path / "other")


@pytest.mark.parametrize("trainable", ["coarse", "fine", "both", ["coarse", "fine"], "both_reft"])
def test_loading_to_train_gives_the_same_logits_and_trains_just_what_is_named(directory, trainable):
    model, _ = heft.load(directory, trainable=trainable)
    assert isinstance(model, PeftModel)
    assert torch.equal(logits(model), logits(heft.load(directory)[0]))
    wanted = {trainable} if isinstance(trainable, str) else set(trainable)
    wanted = {"both_lora", "both_reft"} if wanted == {"both"} else wanted
    expected = set(adapter_parameters(model.get_base_model(), sorted(wanted)))
    assert {name for name, p in model.get_base_model().named_parameters() if p.requires_grad} == expected
    model.train()(input_ids=IDS, prompt_lengths=[30]).logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_alora_that_is_trained_on_is_no_longer_saved_as_one(tmp_path):
    """Its next rows may end with other tokens than those that switch PEFT's aLoRA on."""
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    attached = attach(base.model, "coarse", LoraStage(method="lora", rank=2, positions="l2", steps=1))
    move(base.model, attached.names)
    finish(base.model, attached)
    base.model.peft_config["coarse"].invocation_tokens = [7, 8]
    folder = save_adapters(tmp_path / "a", base, [AdapterEntry(name="coarse", method="lora", stage="coarse")])
    for trainable, kind in ((), "LORA"), ("coarse", "ACTIVATED_LORA"):
        model, _ = heft.load(folder, trainable=trainable)
        model.save_pretrained(tmp_path / kind)
        config = json.loads((tmp_path / kind / "coarse" / "adapter_config.json").read_text())
        assert config["peft_type"] == kind
        assert torch.equal(logits(heft.load(tmp_path / kind)[0]), logits(model))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_that_carries_adapters_is_no_base(directory, wrapped):
    model = PeftModel.from_pretrained(tiny_llama(), directory / "coarse", adapter_name="one")
    with pytest.raises(HeftError, match="the model given carries the adapters one, and heft.load attaches those of a"):
        heft.load(directory, model if wrapped else model.get_base_model())


def test_arguments_without_an_effect_beside_others_are_refused(directory):
    with pytest.raises(HeftError, match="takes a tokenizer beside a model only"):
        heft.load(directory, tokenizer=tiny.byte_tokenizer())
    with pytest.raises(HeftError, match=r"a model that is given stays where it is; got device 'cpu': move it"):
        heft.load(directory, tiny_llama(), device="cpu")
    with pytest.raises(HeftError, match="model is a str; expected the base"):
        heft.load(directory, "tiny")
    with pytest.raises(HeftError, match="in its config.json, or in float16, to which heft never rounds"):
        heft.load(directory, tiny_llama().half())


def test_an_unknown_name_to_train_is_refused_with_the_names_there_are(directory):
    with pytest.raises(
        HeftError, match=r"trainable names 'last'; the directory has both, both_lora, both_reft, coarse"
    ):
        heft.load(directory, trainable="last")


@pytest.mark.parametrize("trainable", ["coarse", "fine"])
def test_disabling_adapters_for_a_while_leaves_the_logits_and_what_trains(directory, trainable):
    model, _ = heft.load(directory, trainable=trainable)
    before, training = logits(model), {name for name, p in model.named_parameters() if p.requires_grad}
    with model.disable_adapter():
        assert torch.equal(logits(model), tiny_llama().eval()(IDS).logits)
    assert torch.equal(logits(model), before)
    now = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in now if ".reft." in name} == {name for name in training if ".reft." in name}
    if trainable == "fine":
        assert now == training


@pytest.mark.parametrize(
    "config",
    [
        ReftConfig(task_type="CAUSAL_LM", positions="l1"),
        LoraConfig(r=2, target_modules=["q_proj"]),
        ActivatedLoraConfig(r=2, target_modules=["q_proj"], positions="l4", task_type="CAUSAL_LM"),
    ],
)
def test_stacking_a_further_adapter_keeps_the_earlier_ones_active_and_frozen(directory, tmp_path, config):
    model, _ = heft.load(directory)
    before = logits(model)
    stacked = heft.stack(model, config, "more")
    assert torch.equal(logits(stacked), before), "a fresh adapter is the identity"
    training = {name for name, p in stacked.named_parameters() if p.requires_grad}
    assert training
    assert all(".more." in name for name in training)
    move(stacked, ["more"], 0.5)
    assert not torch.allclose(logits(stacked), before, atol=1e-3)
    with stacked.disable_adapter():
        pass
    after = logits(stacked)
    stacked.save_pretrained(tmp_path / "stacked")
    assert torch.equal(logits(heft.load(tmp_path / "stacked")[0]), after)
    with pytest.raises(HeftError, match="carries an adapter named 'more'"):
        heft.stack(stacked, config, "more")


def test_what_no_adapter_directory_can_hold_is_refused_before_it_is_trained(directory):
    model, _ = heft.load(directory)
    with pytest.raises(HeftError, match="holds adapters of LoRA and ReFT; got IA3"):
        heft.stack(model, IA3Config(task_type="CAUSAL_LM"), "more")
    with pytest.raises(HeftError, match="adapter_name is 'my more'.*give at most 100 letters"):
        heft.stack(model, LoraConfig(r=2, target_modules=["q_proj"]), "my more")
    for settings, reason in (
        ({"target_modules": r".*\.q_proj"}, "target_modules: expected a list"),
        ({"bias": "all"}, "bias: expected 'none', which heft leaves it at; got 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: "),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: "),
        ({"rank_pattern": {"^model.*": 3}}, "rank_pattern"),
    ):
        with pytest.raises(HeftError, match=f"adapter directory, which cannot hold this: {re.escape(reason)}"):
            heft.stack(model, LoraConfig(**{"r": 2, **settings}), "more")
    with pytest.raises(HeftError, match="cannot hold this: modules_to_save: "):
        heft.stack(model, ReftConfig(rank=2, modules_to_save=["lm_head"]), "more")
    assert list(model.peft_config) == NAMES
    stacked = heft.stack(heft.load(directory)[0], LoraConfig(r=2, target_modules="all-linear"), "more")
    assert "all-linear" not in stacked.peft_config["more"].target_modules
    assert isinstance(heft.stack(tiny_llama(), IA3Config(task_type="CAUSAL_LM"), "my more"), PeftModel)


@pytest.mark.parametrize(
    "more", [{"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["norm"]}]
)
def test_on_a_plain_model_a_stacked_adapter_trains_what_pefts_own_call_trains(more):
    def model():
        return tiny.tiny_model("qwen2")

    def trained(found):
        return {name for name, parameter in found.named_parameters() if parameter.requires_grad}

    config = {"r": 2, "target_modules": ["q_proj"], **more}
    expected = trained(get_peft_model(model(), LoraConfig(**config)))
    assert expected > trained(get_peft_model(model(), LoraConfig(r=2, target_modules=["q_proj"])))
    one = heft.stack(model(), LoraConfig(**config))
    assert trained(one) == expected
    two = heft.stack(one, LoraConfig(r=2, target_modules=["q_proj"]), "more")
    assert all(".more." in name for name in trained(two))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("layers", "a part of the model is named 'layers'"), ("0", "a part of"), ("lora_A", "a part of"), ("weight", "a")]
    + [("keys", "PyTorch reserves the name 'keys'")],
)
def test_a_stacked_adapter_cannot_have_the_name_of_a_part_of_the_model(directory, name, reason):
    """PEFT would take other adapters' tensors for its own, so that what is saved could not be read."""
    model, _ = heft.load(directory)
    with pytest.raises(HeftError, match=f"adapter_name is '{name}': {reason}.*give the new adapter another one"):
        heft.stack(model, LoraConfig(r=2, target_modules=["q_proj"]), name)
    assert list(model.peft_config) == NAMES


def test_a_stacked_adapter_of_a_model_in_double_precision_is_saved_and_read(directory, tmp_path):
    model, _ = heft.load(directory, tiny_llama().double())
    stacked = heft.stack(model, LoraConfig(r=2, target_modules=["q_proj"]), "more")
    move(stacked, ["more"], 0.5)
    stacked.save_pretrained(tmp_path / "double")
    assert torch.equal(logits(heft.load(tmp_path / "double", tiny_llama().double())[0]), logits(stacked))


def test_pefts_own_call_keeps_earlier_reft_active_and_sends_lora_to_the_right_call(directory):
    model, _ = heft.load(directory)
    before = logits(model)
    with pytest.raises(HeftError, match=r"would switch off .*: call heft\.stack\(model, config, 'default'\)"):
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert torch.equal(logits(model), before)
    stacked = get_peft_model(model, ReftConfig(task_type="CAUSAL_LM", positions="l1"))
    assert torch.equal(logits(stacked), before)
    training = {name for name, p in stacked.named_parameters() if p.requires_grad}
    assert training
    assert all(".default." in name for name in training)


def test_an_adapter_that_would_not_be_read_back_is_not_saved_as_a_directory(directory, tmp_path):
    model, _ = heft.load(directory)
    stacked = heft.stack(model, LoraConfig(r=2, target_modules=["q_proj"]), "pattern")
    stacked.peft_config["pattern"].target_modules = r".*\.q_proj"
    with pytest.raises(HeftError, match="target_modules: expected a list"):
        stacked.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "heft.json").exists()


def test_a_peft_model_around_a_peft_model_is_refused_and_the_named_call_works(directory):
    coarse = PeftModel.from_pretrained(tiny_llama().eval(), directory / "coarse", adapter_name="coarse")
    with pytest.raises(ValueError, match=r"PeftModel\.from_pretrained\(model\.get_base_model\(\), folder"):
        PeftModel.from_pretrained(coarse, directory / "fine", adapter_name="fine")
    both = PeftModel.from_pretrained(coarse.get_base_model(), directory / "fine", adapter_name="fine")
    expected, _ = heft.load(directory)
    for layer in (m for m in expected.modules() if isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer)):
        layer.set_adapter([name for name in ("coarse", "fine") if name in layer._all_available_adapter_names()])
    assert torch.allclose(logits(both), logits(expected), atol=1e-6)


def test_weighting_reft_adapters_is_refused_in_words(directory):
    model, _ = heft.load(directory, trainable="fine")
    with pytest.raises(ValueError, match="cannot be combined by weighting their tensors"):
        model.add_weighted_adapter(["fine", "both_reft"], [0.5, 0.5], "mean")


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_an_auto_class_finds_a_base_that_is_built_in(directory, name):
    config = json.loads((directory / name / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == TINY
    found = AutoPeftModelForCausalLM.from_pretrained(directory / name)
    expected = PeftModel.from_pretrained(tiny_llama().eval(), directory / name)
    lengths = {"prompt_lengths": [30]} if name == "fine" else {}
    with torch.no_grad():
        assert torch.equal(found.eval()(IDS, **lengths).logits, expected(IDS, **lengths).logits)
        assert not torch.equal(found(IDS, **lengths).logits, tiny_llama().eval()(IDS).logits)


def test_sft_trains_what_is_named_and_saves_a_directory_that_loads(directory, tmp_path):
    trl = pytest.importorskip("trl")
    model, tokenizer = heft.load(directory, trainable="fine")
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = logits(model)
    trainer = trl.SFTTrainer(
        model,
        arguments(tmp_path / "out", trl.SFTConfig, max_length=None, max_steps=3),
        train_dataset=text_rows(),
        processing_class=tokenizer,
    )
    trainer.args.learning_rate = 1e-2
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert not torch.allclose(logits(model), before, atol=1e-4)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert torch.equal(logits(heft.load(tmp_path / "saved")[0]), logits(model))


def test_dpo_trains_what_is_named_against_the_loaded_model_as_reference(directory, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    rows = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": "no"} for r in text_rows()]
    model, tokenizer = heft.load(directory, trainable="fine")
    trainer = trl.DPOTrainer(
        model,
        ref_model=heft.load(directory)[0],
        args=arguments(tmp_path / "out", trl.DPOConfig, max_steps=2, beta=0.5),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.args.learning_rate = 1e-2
    before = logits(model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4), "before the first step the model is the reference: ln 2"
    assert losses[1] < losses[0]
    trainer.save_model(tmp_path / "saved")
    assert not torch.allclose(logits(model), before, atol=1e-4)
    assert torch.equal(logits(heft.load(tmp_path / "saved")[0]), logits(model))


def test_the_hashes_of_a_saved_directory_are_those_of_its_files(directory, tmp_path):
    model, _ = heft.load(directory)
    model.save_pretrained(tmp_path / "copy")
    for name in NAMES:
        one = load_file(directory / name / "adapter_model.safetensors")
        two = load_file(tmp_path / "copy" / name / "adapter_model.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    saved = json.loads((tmp_path / "copy" / "heft.json").read_text())
    assert [entry["name"] for entry in saved["adapters"]] == NAMES
    assert all(entry["sha256"] for entry in saved["adapters"])


def test_lora_on_experts_can_be_trained_on_too(directory):
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields |= {"vocab_size": 259, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**fields, head_dim=8, pad_token_id=0)).eval()
    config = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, target_modules="all-linear")
    inject(model, "coarse", config)
    with torch.no_grad():
        before = model(IDS).logits
    entries = [AdapterEntry(name="coarse", method="lora", stage="coarse")]
    wrapped = prepare(model, read_manifest(directory).model_copy(update={"adapters": entries}), "coarse")
    with torch.no_grad():
        assert torch.equal(wrapped(IDS).logits, before)
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    assert training == set(adapter_parameters(model, ["coarse"]))
    assert any("experts" in name for name in training)


def test_a_copy_of_a_loaded_model_saves_itself_and_not_the_original(directory, tmp_path):
    model, _ = heft.load(directory)
    twin = copy.deepcopy(model)
    move(twin, NAMES)
    twin.save_pretrained(tmp_path / "twin")
    assert torch.equal(logits(heft.load(tmp_path / "twin")[0]), logits(twin))
    assert not torch.allclose(logits(twin), logits(model), atol=1e-4)
    with pytest.raises(HeftError, match=r"call heft\.stack"):
        get_peft_model(twin, LoraConfig(r=2, target_modules=["q_proj"]))
