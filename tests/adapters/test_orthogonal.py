"""`orthogonal_to`: what LoRA writes, edits that keep out of it from the first step to the saved file, refusals."""

import os
import signal

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    MarianConfig,
    MBartConfig,
    OpenAIGPTConfig,
    OPTConfig,
    Qwen3MoeConfig,
)

import heft
import resuming
from heft.adapters import orthogonal
from heft.adapters.attach import attach, check_targets
from heft.adapters.orthogonal import directions_written, orthogonal_in_words
from heft.errors import HeftError
from heft.models.load import load_base, without_weights
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.reft.layer import layers_of
from heft.reft.sites import site_names
from heft.runtime.reporter import Reporter
from tiny import ARCHITECTURES, tiny_model

COARSE = "coarse: {method: lora, rank: 3, steps: 3, batch_size: 8, learning_rate: 1e-2}"
FINE = "method: reft, rank: 2, positions: l2, steps: 6, batch_size: 8, learning_rate: 1e-2, weight_decay: 0.1"
BART_SIZES = {"vocab_size": 259, "d_model": 32, "decoder_ffn_dim": 64, "decoder_attention_heads": 4,
              "decoder_layers": 2, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
SITES = {"block": ("o_proj", "down_proj"), "attention": ("o_proj",), "mlp": ("down_proj",)}


class Notes(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def stages(fine="orthogonal_to: coarse", coarse=COARSE):
    return f"{{{coarse}, fine: {{{FINE}, {fine}}}}}"


def tensors(directory, name):
    return load_file(directory / "adapter" / name / "adapter_model.safetensors")


def span(columns):
    """By an SVD of numpy's, in float64."""
    left, values, _ = np.linalg.svd(np.concatenate(columns, axis=1).astype(np.float64), full_matrices=False)
    return left[:, values > 1e-5 * values[0]]


def written_in_file(directory, layer, modules):
    """Directions that the saved LoRA writes in a layer."""
    saved = tensors(directory, "coarse")
    return span(
        [v for k, v in saved.items() if f"layers.{layer}." in k and "lora_B" in k and any(m in k for m in modules)]
    )


TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 16, eval_size: 4}"
CASES = [("loreft", side, "block") for side in ("read", "write", "both")]
CASES += [("noreft", "both", "block"), ("lobireft", "both", "block"), ("loreft", "both", "attention")]
CASES += [
    pytest.param(*each, marks=pytest.mark.long)
    for each in (("direft", "both", "block"), ("consreft", "both", "block"), ("direft", "both", "mlp"))
]


@pytest.mark.parametrize(("name", "side", "site"), CASES)
def test_what_is_saved_is_orthogonal_to_the_saved_lora_and_is_what_was_trained(recipe_file, tmp_path, name, side, site):
    own = f"orthogonal_to: coarse, orthogonal_side: {side}, intervention: {name}, site: {site}"
    done = heft.train(load_recipe(recipe_file(stages(own), task=TASK), output=str(tmp_path / "run")))
    saved = tensors(done.directory, "fine")
    for layer in range(4):
        U = written_in_file(done.directory, layer, SITES[site])
        get = {key.rpartition(".")[2]: v.astype(np.float64) for key, v in saved.items() if f"layers.{layer}." in key}
        assert U.shape == (64, 3 * len(SITES[site]))
        B = get.get("rotation", get.get("basis"))
        A = get["weight"] - B if name in ("loreft", "noreft") else get.get("weight")
        if side != "read":
            assert np.abs(B @ U).max() < 1e-6
        if side != "write" and A is not None:
            assert np.abs(A @ U).max() < 1e-6
        if side == "read":
            assert np.abs(B @ U).max() > 1e-3  # what it writes is free
        if side == "write":
            assert np.abs(A @ U).max() > 1e-3  # what it reads is free
        if "rotation" in get:
            assert np.allclose(B @ B.T, np.eye(2), atol=1e-6)
    model, tokenizer = heft.load(done.directory)
    again = heft.evaluate(model, tokenizer, load_recipe(done.directory / "recipe.yaml").task)
    assert again.metrics.accuracy == done.stages[-1].accuracy
    assert "orthogonal" not in (done.directory / "adapter" / "fine" / "adapter_config.json").read_text()


def test_peft_loads_the_saved_edit_to_the_bit_without_heft_s_setting(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file(stages()), output=str(tmp_path / "run"))
    done = heft.train(recipe)
    ids = torch.arange(3, 23)[None]
    model, _ = heft.load(done.directory)
    base = load_base(recipe.model).model
    alone = PeftModel.from_pretrained(base, str(done.directory / "adapter" / "coarse"), adapter_name="coarse")
    stacked = PeftModel.from_pretrained(
        alone.get_base_model(), str(done.directory / "adapter" / "fine"), adapter_name="fine"
    )
    stacked.base_model.set_adapter(["fine"])
    assert torch.equal(stacked(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma3"])
@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
def test_lora_moves_a_site_s_output_within_its_directions_only(architecture, site):
    """In every family, by what the model does: all that LoRA of the last module changes in the hidden state."""
    model = tiny_model(architecture)
    inject_adapter_in_model(LoraConfig(r=2, target_modules="all-linear"), model, adapter_name="coarse")
    # of a block, the attention's part passes through the MLP too, so that only the MLP's own part is looked at
    within = "mlp" if site == "block" else site
    last = {"o_proj", "c_proj", "dense"} if within == "attention" else {"down_proj", "c_proj", "fc2"}
    where, part = site_names(model, "all", site)[1], site_names(model, "all", within)[1]
    found = []
    model.get_submodule(where).register_forward_hook(
        lambda module, args, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        model(input_ids=ids)
        for name, parameter in model.named_parameters():
            if "lora_B" in name and name.startswith(part) and name.split(".lora_B")[0].rpartition(".")[2] in last:
                parameter.normal_()
        model(input_ids=ids)
    moved = (found[1] - found[0])[0]
    U = directions_written(model, "coarse", where)
    assert U.shape == (32, 2)
    assert moved.abs().max() > 0.1
    assert torch.allclose(moved @ U @ U.T, moved, atol=1e-4)


def test_layers_in_which_lora_writes_nothing_are_free_as_without_the_setting_and_this_is_said(recipe_file, tmp_path):
    notes = Notes()
    coarse = COARSE.replace("rank: 3", "rank: 3, layers: [1, 2]")
    path = recipe_file(stages(coarse=coarse))
    heft.train(load_recipe(path, output=str(tmp_path / "run")), notes)
    assert "fine: edits read and write nothing of the directions that coarse writes, 6 of 64 at 2 sites" in notes.said
    assert "fine: coarse writes nothing at model.layers.0, model.layers.3, where edits are free" in notes.said


def test_behind_a_lora_that_wrote_nothing_the_edit_is_what_it_is_without_the_setting(recipe_file):
    """LoRA's B is 0 before it is trained, so it has no directions."""
    begun = []
    for own in ("orthogonal_to: coarse", "orthogonal_to: null"):
        recipe = load_recipe(recipe_file(stages(own)))
        base = load_base(recipe.model)
        attach(base.model, "coarse", recipe.stages["coarse"])
        torch.manual_seed(0)
        attach(base.model, "fine", recipe.stages["fine"])
        begun.append([unit for layer in layers_of(base.model).values() for _, unit in layer.units()])
        lines = orthogonal_in_words(base.model, "fine", "fine", recipe.stages["fine"])
        assert lines == (["fine: coarse writes nothing at any site, so edits are free"] if "null" not in own else [])
    assert all(unit.outside is None for unit in begun[0])
    pairs = (
        (a, b)
        for one, other in zip(*begun, strict=True)
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_fresh_orthogonal_adapter_leaves_every_logit_as_it_was(recipe_file):
    recipe = load_recipe(recipe_file(stages()))
    base, ids = load_base(recipe.model), torch.arange(3, 23)[None]
    attach(base.model, "coarse", recipe.stages["coarse"])
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        before = base.model.eval()(input_ids=ids).logits
        attach(base.model, "fine", recipe.stages["fine"])
        assert all(unit.outside is not None for layer in layers_of(base.model).values() for _, unit in layer.units())
        after = base.model.eval()(input_ids=ids, prompt_lengths=torch.tensor([20])).logits
    assert torch.allclose(after, before, atol=1e-5)


def test_over_a_base_in_bfloat16_it_is_as_orthogonal(recipe_file, tmp_path):
    path = recipe_file(stages(), dtype="bfloat16")
    done = heft.train(load_recipe(path, output=str(tmp_path / "run")))
    for layer in range(4):
        U = written_in_file(done.directory, layer, SITES["block"])
        rows = next(
            v for k, v in tensors(done.directory, "fine").items() if f"layers.{layer}." in k and "rotation" in k
        )
        assert np.abs(rows.astype(np.float64) @ U).max() < 1e-6


@pytest.mark.parametrize("coarse", [COARSE.replace("rank: 3", "rank: 4, init: pissa"), "joint"])
def test_the_named_stage_may_have_another_start_or_be_joint(recipe_file, tmp_path, coarse):
    joint = "coarse: {method: joint, steps: 3, batch_size: 8, lora: {rank: 4}, reft: {rank: 2, positions: l1}}"
    coarse, folder = (joint, "coarse_lora") if coarse == "joint" else (coarse, "coarse")
    done = heft.train(load_recipe(recipe_file(stages(coarse=coarse)), output=str(tmp_path / "run")))
    saved, lora = tensors(done.directory, "fine"), tensors(done.directory, folder)
    written = [v for k, v in lora.items() if "layers.2." in k and "lora_B" in k and ("o_proj" in k or "down_proj" in k)]
    rows = next(v for k, v in saved.items() if "layers.2." in k and "rotation" in k).astype(np.float64)
    assert np.abs(rows @ np.concatenate(written, axis=1)).max() < 1e-5 * np.abs(written[0]).max() + 1e-6


def test_the_named_stage_may_be_an_adapter_that_exists(recipe_file, tmp_path):
    first = heft.train(load_recipe(recipe_file(f"{{{COARSE}}}"), output=str(tmp_path / "first")))
    coarse = f"coarse: {{method: lora, from: {first.directory / 'adapter' / 'coarse'}}}"
    done = heft.train(load_recipe(recipe_file(stages(coarse=coarse)), output=str(tmp_path / "run")))
    rows = next(v for k, v in tensors(done.directory, "fine").items() if "layers.3." in k and "rotation" in k)
    assert np.abs(rows.astype(np.float64) @ written_in_file(first.directory, 3, SITES["block"])).max() < 1e-6


def test_an_interrupted_run_ends_as_one_that_was_not_to_the_bit(tmp_path):
    recipe = resuming.write(tmp_path, f"{resuming.START} {stages()}")
    resuming.run(recipe, tmp_path / "whole")

    def work():
        rename, calls = os.rename, []

        def killed(*arguments, **options):
            calls.append(None)
            if len(calls) == 7:  # three checkpoints of coarse and its end, then two of fine
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(*arguments, **options)

        os.rename = killed
        resuming.run(recipe, tmp_path / "resumed")

    assert resuming.was_killed(resuming.in_a_child(work))
    assert (tmp_path / "resumed" / "checkpoints").is_dir()
    resuming.run(recipe, tmp_path / "resumed")
    assert resuming.results(tmp_path / "resumed") == resuming.results(tmp_path / "whole")


REFUSED = [
    ("orthogonal_to: coarser", COARSE, "'coarser' is no earlier stage; did you mean 'coarse'"),
    ("orthogonal_to: fine", COARSE, "'fine' is no earlier stage"),
    ("orthogonal_to: coarse", COARSE.replace("rank: 3", "rank: 3, dora: true"), "trains with dora"),
    ("orthogonal_to: coarse", "coarse: {method: reft, steps: 2}", "trains a ReFT adapter; name one that trains LoRA"),
    ("orthogonal_side: write", COARSE, "has no effect without orthogonal_to"),
    ("orthogonal_to: coarse, orthogonal_side: read, intervention: lobireft", COARSE, "reads nothing of the hidden"),
    ("orthogonal_to: coarse, orthogonal_side: read, intervention: consreft", COARSE, "use orthogonal_side: both"),
    ("orthogonal_to: coarse, orthogonal_side: read, activation: relu", COARSE, "loreft with relu reads by the matrix"),
    ("orthogonal_to: coarse, from: somewhere", COARSE, "has no effect on an adapter that exists"),
]


@pytest.mark.parametrize(("fine", "coarse", "said"), REFUSED)
def test_a_recipe_that_asks_for_what_cannot_be_is_refused(recipe_file, fine, coarse, said):
    with pytest.raises(HeftError, match=said.replace("(", r"\(")):
        load_recipe(recipe_file(stages(fine, coarse)))


def test_a_joint_stage_has_no_such_setting(recipe_file):
    joint = "{coarse: {method: joint, steps: 1, reft: {orthogonal_to: coarse}}}"
    with pytest.raises(HeftError, match="orthogonal_to"):
        load_recipe(recipe_file(joint))


UNFIT = [
    (COARSE.replace("rank: 3", "rank: 31"), "rank: 2 is above 2|rank: 3 is above 2", "rank: 3"),
    (
        COARSE.replace("rank: 3", "rank: 40"),
        "is above 0, the dimensions that orthogonal_to leaves at model.layers.0",
        "",
    ),
    (COARSE.replace("rank: 3", "rank: 3, targets: [q_proj, up_proj]"), "adapts no module whose output is added", ""),
    (COARSE.replace("rank: 3", "rank: 16, init: pissa"), "where coarse writes up to 64 of 64", ""),
]


@pytest.mark.parametrize(("coarse", "said", "fine"), UNFIT)
def test_what_the_model_has_no_room_for_is_refused_before_training_and_by_the_plan(recipe_file, coarse, said, fine):
    own = "orthogonal_to: coarse" + (f", {fine}" if fine else "")
    text = stages(own, coarse) if not fine else stages(own, coarse).replace("rank: 2, positions", "positions")
    recipe = load_recipe(recipe_file(text))
    with pytest.raises(HeftError, match=said):
        check_targets(load_base(recipe.model).model, recipe)
    with pytest.raises(HeftError, match=said):
        make_plan(recipe, probe_seconds=0)


def test_blocks_that_normalize_what_is_written_are_refused_and_their_sites_within_are_not(recipe_file):
    model = tiny_model("gemma3")
    recipe = load_recipe(recipe_file(stages()))
    with pytest.raises(HeftError, match=r"post_feedforward_layernorm.*use another site \(attention or mlp"):
        check_targets(model, recipe)
    check_targets(model, load_recipe(recipe_file(stages("orthogonal_to: coarse, site: mlp"))))


OPENAI_GPT = OpenAIGPTConfig(vocab_size=259, n_embd=32, n_head=4, n_layer=2, n_positions=64)


@pytest.mark.parametrize(
    ("config", "norm"),
    [
        (OPTConfig(vocab_size=259, hidden_size=32, ffn_dim=64, num_attention_heads=4, num_hidden_layers=2,
                   max_position_embeddings=64, word_embed_proj_dim=32, do_layer_norm_before=False), "final_layer_norm"),
        (OPENAI_GPT, "ln_2"),
        (BertConfig(vocab_size=259, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2,
                    is_decoder=True), "output.LayerNorm"),
        (BartConfig(**BART_SIZES), "final_layer_norm"),
        (MarianConfig(**BART_SIZES, decoder_start_token_id=1), "final_layer_norm"),
    ],
)  # fmt: skip
def test_families_that_normalize_after_the_sum_are_refused(recipe_file, config, norm):
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(HeftError, match=f"orthogonal_to.*normalizes what its modules write .*{norm}"):
        check_targets(model, load_recipe(recipe_file(stages())))


def test_what_writes_directions_that_are_not_known_is_refused(recipe_file, monkeypatch):
    """Experts write each their own, and a module of another name may or may not write to the hidden state."""
    recipe = load_recipe(recipe_file(stages()))
    with monkeypatch.context() as patch:
        patch.setattr(orthogonal, "_INNER", orthogonal._INNER - {"k_proj", "up_proj"})
        check_targets(tiny_model(), recipe)  # these are of another width than the hidden state
        patch.setattr(orthogonal, "_INNER", orthogonal._INNER - {"q_proj"})
        with pytest.raises(HeftError, match=r"whether the output of model.layers.0.self_attn.q_proj is added"):
            check_targets(tiny_model(), recipe)
    sizes = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_experts": 4}
    experts = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**sizes, moe_intermediate_size=16))
    with pytest.raises(HeftError, match=r"LoRA adapts experts' weights \(model.layers.0.mlp.experts"):
        check_targets(experts, recipe)


@pytest.mark.parametrize("site", ["attention", "mlp"])
def test_a_site_that_gives_on_what_is_written_before_the_block_normalizes_it_is_taken(recipe_file, site):
    model = AutoModelForCausalLM.from_config(OPENAI_GPT)
    check_targets(model, load_recipe(recipe_file(stages(f"orthogonal_to: coarse, site: {site}"))))


def test_a_kin_of_bart_that_normalizes_before_its_modules_is_taken(recipe_file):
    model = AutoModelForCausalLM.from_config(MBartConfig(**BART_SIZES))
    check_targets(model, load_recipe(recipe_file(stages())))


def test_a_plan_counts_an_orthogonal_stage_as_one_without(recipe_file):
    plans = [
        make_plan(load_recipe(recipe_file(stages(own))), probe_seconds=0).stages[1]
        for own in ("orthogonal_to: coarse", "orthogonal_to: null")
    ]
    assert plans[0] == plans[1]


def test_nothing_is_kept_out_of_on_a_model_without_weights(recipe_file):
    recipe = load_recipe(recipe_file(stages()))
    model = without_weights(load_base(recipe.model).model)
    with torch.device("meta"):
        attach(model, "coarse", recipe.stages["coarse"])
        attach(model, "fine", recipe.stages["fine"])
    units = [unit for layer in layers_of(model).values() for _, unit in layer.units()]
    assert len(units) == 4
    assert all(unit.outside is None for unit in units)
