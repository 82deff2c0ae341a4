"""`dtype: auto` and `attention: auto`: what they come to, where it is written, and what keeps to it."""

import json
import platform
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import heft
import tiny
from heft.builtin import TINY
from heft.costs.operations import model_costs
from heft.costs.stage import stage_costs
from heft.data.rows import read_data
from heft.errors import HeftError
from heft.models import precision
from heft.models.load import load_base, load_skeleton
from heft.recipe.files import load_recipe
from heft.recipe.model import ModelSettings
from heft.results.records import read_records
from heft.runtime.reporter import Reporter

AUTO = ["model.dtype=auto", "model.device=cpu"]
STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4, learning_rate: 1e-2},"
    " fine: {method: reft, rank: 2, positions: l3, steps: 2, batch_size: 4}}"
)


@pytest.fixture
def hardware(monkeypatch):
    """Says whether this machine seems to multiply in bfloat16."""
    return lambda has: monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: has)


@pytest.mark.parametrize(
    ("kind", "multiplies", "dtype"),
    [
        ("cpu", True, "bfloat16"),
        ("cpu", False, "float32"),
        ("cuda", True, "bfloat16"),
        ("cuda", False, "float32"),
        ("mps", True, "float32"),
    ],
)
def test_auto_is_bfloat16_where_a_cpu_or_a_card_multiplies_in_it(kind, multiplies, dtype):
    assert precision.auto_dtype(kind, multiplies) == dtype


def test_what_this_processor_has_is_what_the_kernel_says_of_it(real_multiplies_bfloat16):
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("the kernel's list of flags is that of Linux on x86-64")
    flags = set(next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line).split())
    expected = bool(flags & {"avx512_bf16", "amx_bf16"})
    assert real_multiplies_bfloat16(torch.device("cpu")) == expected


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_dtype_is_the_hardwares_whatever_the_checkpoint_was_saved_in(tmp_path, hardware, saved, has, dtype):
    hardware(has)
    tiny.tiny_model().to(saved).save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    settings = ModelSettings(name=str(tmp_path), device="cpu")
    base = load_base(settings)
    assert base.model.dtype == load_skeleton(settings).dtype == dtype
    assert base.settings.dtype == str(dtype).removeprefix("torch.")
    assert base.settings.attention == "auto"


def test_a_dtype_that_is_given_stays(hardware):
    hardware(True)
    assert load_base(ModelSettings(name=TINY, dtype="float32", device="cpu")).model.dtype == torch.float32


def test_flash_attention_fits_auto_only_where_auto_is_bfloat16_on_cuda(hardware):
    settings = ModelSettings(name=TINY, attention="flash_attention_2")
    hardware(True)
    assert precision.resolved_dtype(settings, torch.device("cuda")) == "bfloat16"
    with pytest.raises(HeftError, match="auto is bfloat16 on cpu here: set model.attention: auto"):
        precision.resolved_dtype(settings, torch.device("cpu"))
    hardware(False)
    with pytest.raises(HeftError, match="auto is float32 on cuda here: set model.attention: auto"):
        precision.resolved_dtype(settings, torch.device("cuda"))


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory):
    """A tiny model of a class that has no sdpa."""
    folder = tmp_path_factory.mktemp("gemma2")
    own = {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
    config = transformers.Gemma2Config(**tiny.COMMON, **own)
    transformers.Gemma2ForCausalLM(config).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("load", [lambda settings: load_base(settings).model, load_skeleton])
def test_attention_auto_is_what_the_models_class_has(gemma2, load):
    assert load(ModelSettings(name=gemma2, device="cpu")).config._attn_implementation == "eager"
    assert load(ModelSettings(name=TINY, device="cpu")).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("load", [load_base, load_skeleton])
def test_an_attention_that_a_class_lacks_is_refused_with_what_works(gemma2, load):
    with pytest.raises(HeftError, match="attention asked for; set model.attention: auto, or eager"):
        load(ModelSettings(name=gemma2, attention="sdpa", device="cpu"))


@pytest.mark.parametrize("load", [lambda settings: load_base(settings).model, load_skeleton])
def test_the_random_model_attends_as_asked(load):
    assert load(ModelSettings(name=TINY, attention="eager", device="cpu")).config._attn_implementation == "eager"


@pytest.mark.parametrize("trains", [True, False])
def test_eager_and_sdpa_are_counted_alike(trains):
    found = []
    for attention in ("sdpa", "eager"):
        skeleton = load_skeleton(ModelSettings(name=TINY, attention=attention, device="cpu"))
        skeleton.get_input_embeddings().requires_grad_(trains)
        skeleton.model.layers[0].self_attn.q_proj.requires_grad_(trains)
        found.append(model_costs(skeleton))
    sdpa, eager = found
    for part in ("token", "pair", "column", "step"):
        one, other = getattr(sdpa, part), getattr(eager, part)
        assert (one.forward, one.backward) == pytest.approx((other.forward, other.backward)), part
    assert sdpa.saved.seen == eager.saved.seen
    assert (eager.saved.pair > sdpa.saved.pair) == trains  # it keeps the scores, and sdpa a mask


def trained(recipe_file, folder, *overrides, **options):
    recipe = load_recipe(recipe_file(STAGES), [*AUTO, *overrides], output=str(folder))
    return heft.train(recipe, **options).directory


def tensors(run, name):
    return load_file(run / "adapter" / name / "adapter_model.safetensors")


def test_a_run_says_what_auto_came_to_and_its_adapter_loads_in_it(recipe_file, tmp_path, hardware):
    hardware(True)
    run = trained(recipe_file, tmp_path / "run")
    base = json.loads((run / "manifest.json").read_text())["base"]
    assert (base["dtype"], base["attention"]) == ("bfloat16", "sdpa")
    assert load_recipe(run / "recipe.yaml").model.dtype == "auto"
    model = json.loads((run / "adapter" / "heft.json").read_text())["model"]
    assert (model["dtype"], model["attention"]) == ("bfloat16", "auto")
    assert {t.dtype for name in ("coarse", "fine") for t in tensors(run, name).values()} == {torch.float32}
    hardware(False)  # as if it were copied to another machine
    loaded, _ = heft.load(run / "adapter")
    assert loaded.dtype == torch.bfloat16
    weights = [p for name, p in loaded.named_parameters() if ".lora_" in name or ".reft." in name]
    assert {p.dtype for p in weights} == {torch.float32}


def test_a_base_that_is_given_keeps_its_dtype(recipe_file, tmp_path, hardware):
    hardware(True)
    run = trained(recipe_file, tmp_path / "run")
    given = load_base(ModelSettings(name=TINY, dtype="float32", device="cpu")).model
    assert heft.load(run / "adapter", model=given)[0].dtype == torch.float32


def test_a_resumed_run_computes_in_what_it_was_begun_with(recipe_file, tmp_path, hardware):
    hardware(True)
    whole = trained(recipe_file, tmp_path / "whole")
    begun = tmp_path / "begun"
    shutil.copytree(whole, begun)
    shutil.rmtree(begun / "adapter")  # as if it had ended before its end
    hardware(False)
    again = trained(recipe_file, begun, resume=True)
    for name in ("coarse", "fine"):
        one, other = tensors(whole, name), tensors(again, name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert json.loads((again / "manifest.json").read_text())["base"]["dtype"] == "bfloat16"
    assert read_records(again / "records" / "fine.jsonl") == read_records(whole / "records" / "fine.jsonl")


def test_a_run_whose_manifest_does_not_say_its_dtype_cannot_be_resumed(recipe_file, tmp_path):
    run = trained(recipe_file, tmp_path / "run")
    shutil.rmtree(run / "adapter")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["base"]["dtype"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(HeftError, match="gives the base the dtype None"):
        trained(recipe_file, run, resume=True)


def test_a_plan_counts_the_memory_of_the_attention_that_trains_and_the_same_flops(recipe_file, hardware):
    hardware(True)
    works = []
    for attention in ("auto", "eager", "sdpa"):
        recipe = load_recipe(recipe_file(STAGES), [*AUTO, f"model.attention={attention}"])
        works.append(stage_costs(recipe, "coarse", read_data(recipe, Reporter()).train))
    auto, eager, sdpa = works
    assert auto.shape.costs.saved == eager.shape.costs.saved
    assert auto.shape.costs.saved.pair > sdpa.shape.costs.saved.pair
    assert auto.flops(1) == pytest.approx(sdpa.flops(1))
