"""Every check fails where what it checks is broken."""

import math
from dataclasses import replace

import peft
import pytest
import torch
from peft.tuners.lora import Linear, LoraLayer
from transformers import GenerationConfig

from heft.adapters.attach import activated, adapter_parameters
from heft.reft import prompts, tracker
from heft.reft.generating import GenerateCall
from heft.reft.layer import ReftLayer
from heft.training.reuse import prefix
from heft.verify import fast_paths, merging
from heft.verify.batching import check_batching
from heft.verify.decoding import check_decoding
from heft.verify.effect import check_effect
from heft.verify.fast_paths import check_sharing, check_training, two_questions
from heft.verify.finding import DOES_NOT_APPLY, FAILED, OK
from heft.verify.logits import Rounding, largest, row_logits
from heft.verify.merging import check_merging
from heft.verify.plain_peft import check_plain_peft
from heft.verify.saved import check_loaded, check_saved_again
from heft.verify.subject import open_subject
from tiny import forget_hashes


def states(findings):
    return {finding.check: finding.state for finding in findings}


def parameter(model, adapter):
    return next(iter(adapter_parameters(model, [adapter]).values()))


@pytest.mark.parametrize("check", [check_loaded, check_saved_again])
def test_one_bit_of_one_number_changed_after_loading_is_seen(subject, check):
    value = parameter(subject.model, "fine").data.view(-1)
    value[0] = torch.nextafter(value[0], torch.tensor(torch.inf))
    (finding,) = check(subject)
    assert (finding.state, finding.differ) == (FAILED, 1)
    assert 0 < finding.difference < 1e-6
    assert "fine/base_model.model." in finding.compared


def test_the_sign_of_zero_is_a_bit_too(subject):
    value = parameter(subject.model, "coarse").data.view(-1)
    value[0] = 0.0
    for name in ("coarse", "fine"):
        peft.set_peft_model_state_dict(subject.model, {}, adapter_name=name)
    value[0] = -0.0
    (finding,) = check_loaded(subject)
    assert (finding.state, finding.differ) == (FAILED, 1)


def test_numbers_that_are_not_finite_fail_though_both_sides_are_equal(subject, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    forget_hashes(shutil.copytree(subject.directory, tmp_path / "adapter"))
    file = tmp_path / "adapter" / "fine" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, file)
    (finding,) = check_loaded(open_subject(tmp_path / "adapter", rows=2))
    assert (finding.state, finding.differ) == (FAILED, 0)
    assert "not finite" in finding.compared


def test_a_setting_that_is_lost_on_the_way_back_is_named(subject):
    subject.model.peft_config["fine"].positions = "l2"
    (finding,) = check_saved_again(subject)
    assert finding.state == FAILED
    assert "fine: positions is 'l4' in the file and 'l2' saved again" in finding.compared


def test_a_lora_that_was_loaded_as_zeros_does_nothing_and_fails(subject):
    for key, value in adapter_parameters(subject.model, ["coarse"]).items():
        if ".lora_B." in key:
            value.data.zero_()
    broken = replace(subject, logits=subject.logits_now())
    found = {finding.check: finding for finding in check_effect(broken)}
    assert found["coarse changes something"].state == FAILED
    assert found["coarse changes something"].difference == 0
    assert "nothing changes, though the saved tensors' largest update is" in found["coarse changes something"].compared
    assert found["fine changes something"].state == OK


def test_edits_that_are_never_reached_fail(subject):
    for layer in subject.model.modules():
        if isinstance(layer, ReftLayer):
            layer._handle.remove()
    found = states(check_effect(replace(subject, logits=subject.logits_now())))
    assert (found["fine changes something"], found["coarse changes something"]) == (FAILED, OK)


def test_a_base_that_the_adapters_left_changed_is_seen(subject):
    subject.model.get_decoder().embed_tokens.weight.data.add_(1e-3)
    assert states(check_effect(subject))["switched off, it is the base"] == FAILED


def test_generation_that_edits_every_token_fails(subject, monkeypatch):
    assert set(states(check_decoding(subject)).values()) == {OK}
    monkeypatch.setattr(GenerateCall, "prompt_of", lambda self, attended_BS: attended_BS.sum(1))
    assert states(check_decoding(subject)) == {
        "cached against uncached decoding": FAILED,
        "decoding against one pass": FAILED,
    }


def test_generation_settings_of_the_base_fail_nothing(subject):
    subject.model.generation_config = GenerationConfig(repetition_penalty=5.0, num_beams=2, suppress_tokens=[70, 71])
    assert set(states(check_decoding(subject)).values()) == {OK}


def test_steps_that_lose_their_edit_fail_where_all_tokens_are_edited(adapters, monkeypatch):
    subject = open_subject(adapters("all"), rows=2)
    plain = tracker.edited_token_indices

    def none_in_a_step(layout, positions, part):
        index_N = plain(layout, positions, part)
        return index_N[:0] if layout.index_BT.shape[1] == 1 else index_N

    monkeypatch.setattr(tracker, "edited_token_indices", none_in_a_step)
    assert set(states(check_decoding(subject)).values()) == {FAILED}


@pytest.mark.parametrize("name", ["last", "both ends"])
def test_positions_counted_from_the_padding_fail(adapters, name, monkeypatch):
    def from_the_first_column(attended_BS):
        return torch.arange(attended_BS.shape[1]).expand(attended_BS.shape)

    subject = open_subject(adapters(name), rows=3)
    assert len(set(subject.probe.lengths)) > 1
    assert set(states(check_batching(subject)).values()) == {OK}
    monkeypatch.setattr(prompts, "number_tokens", from_the_first_column)
    found = states(check_batching(replace(subject, logits=subject.logits_now())))
    assert found == {"batch against single": FAILED, "left against right padding": FAILED}


def test_rounding_of_the_base_itself_is_allowed_for_and_what_is_more_is_not(adapters, monkeypatch):
    subject = open_subject(adapters("last"), rows=3)
    half = "half of what the base shows"
    with activated(subject.model, []):
        alone = torch.cat([row_logits(subject.model, [row], subject.pad_id)[:, -1:] for row in subject.probe.rows])
        base = largest(subject.logits_now()[:, -1:], alone)
    assert base > 0
    coarse = replace(subject, rounding=Rounding(base / 2 / subject.rounding.scale, subject.rounding.scale, half))
    found = {finding.check: finding for finding in check_batching(coarse)}["batch against single"]
    assert found.state == OK
    assert found.tolerance >= 3 * base
    assert found.why.startswith("3 times what the base alone shows")
    monkeypatch.setattr(prompts, "number_tokens", lambda kept: torch.arange(kept.shape[1]).expand(kept.shape))
    found = states(check_batching(replace(coarse, logits=subject.logits_now())))
    assert found["batch against single"] == FAILED


def test_positions_that_are_right_for_left_padding_only_fail_on_the_right_alone(subject, monkeypatch):
    def from_the_last_column(attended_BS):
        width = attended_BS.shape[1]
        return torch.arange(width)[None] - (width - attended_BS.sum(1))[:, None]

    monkeypatch.setattr(prompts, "number_tokens", from_the_last_column)
    found = states(check_batching(subject))
    assert found == {"batch against single": OK, "left against right padding": FAILED}


def test_a_merge_that_is_not_the_adapter_fails_and_the_weights_are_put_back(subject, monkeypatch):
    plain = Linear.merge

    def perturbed(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self.get_base_layer().weight.data[0] += 0.1

    assert set(states(check_merging(subject)).values()) == {OK}
    monkeypatch.setattr(Linear, "merge", perturbed)
    assert states(check_merging(subject)) == {"merged against unmerged": FAILED, "weights after unmerging": FAILED}
    assert torch.equal(subject.logits_now(), subject.logits)


def test_weights_that_are_nan_in_one_module_after_unmerging_fail_whichever_module_it_is(subject, monkeypatch):
    layers = [layer for layer in subject.model.modules() if isinstance(layer, LoraLayer)]
    for broken in (layers[0], layers[-1]):
        plain = Linear.unmerge

        def unmerge(self, plain=plain, broken=broken):
            plain(self)
            if self is broken:
                self.get_base_layer().weight.data[0, 0] = torch.nan

        with monkeypatch.context() as patched:
            patched.setattr(Linear, "unmerge", unmerge)
            _, weights = check_merging(subject)
        assert (weights.check, weights.state) == ("weights after unmerging", FAILED)
        assert math.isnan(weights.difference)


def test_a_difference_that_is_nan_stays_nan(subject):
    """Of tensors that differ too, in whichever order they are compared."""
    values = list(adapter_parameters(subject.model, ["coarse"]).values())
    for nan in (values[0], values[-1]):
        for value in values:
            value.data.view(-1)[0] = 7.0
        nan.data.view(-1)[0] = torch.nan
        assert math.isnan(check_loaded(subject)[0].difference)


def test_in_bfloat16_merged_weights_are_rounded_too_and_a_wrong_merge_still_fails(adapters, monkeypatch):
    subject = open_subject(adapters("bfloat16"))
    merged, _ = check_merging(subject)
    assert (merged.state, merged.tolerance) == (OK, 2 * subject.rounding.logits)
    assert "merged weights are rounded too" in merged.why
    plain = Linear.merge

    def shifted(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self.get_base_layer().weight.data.copy_(self.get_base_layer().weight.roll(1, 0))

    monkeypatch.setattr(Linear, "merge", shifted)
    assert states(check_merging(subject))["merged against unmerged"] == FAILED


def test_a_merge_that_breaks_off_leaves_the_weights_and_the_adapters_as_they_were(subject, monkeypatch):
    plain, calls = Linear.merge, []

    def breaking(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        plain(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "merge", breaking)
    with pytest.raises(RuntimeError, match="out of memory"):
        check_merging(subject)
    assert torch.equal(subject.logits_now(), subject.logits)
    assert not any(m.merged for m in subject.model.modules() if isinstance(m, LoraLayer))


def test_merging_needs_plain_weights_and_room_for_a_copy(subject, monkeypatch):
    with monkeypatch.context() as packed:
        packed.setattr(merging, "_weight", lambda layer: layer.get_base_layer().weight.to(torch.uint8))
        assert "quantized" in check_merging(subject)[0].compared

    monkeypatch.setattr(merging, "available_memory", lambda: 1000)
    (finding,) = check_merging(subject)
    assert finding.state == DOES_NOT_APPLY
    assert "a copy of the weights needs" in finding.compared


def test_a_shared_prefix_that_is_one_token_off_fails(subject, monkeypatch):
    from heft.evaluation import shared_pass

    plain = shared_pass._moved
    assert states(check_sharing(subject)) == {"shared prefixes in evaluation": OK}
    monkeypatch.setattr(shared_pass, "_moved", lambda states, places, split: plain(states, places, split).roll(1, 2))
    assert states(check_sharing(subject)) == {"shared prefixes in evaluation": FAILED}


def test_sharing_is_checked_on_questions_with_a_common_text_and_choice_prefix(subject):
    from heft.evaluation.shared_prefix import shared_batches

    examples = [e for i, row in enumerate(subject.probe.rows) for e in two_questions(row, f"text {i}")]
    (batch,) = shared_batches(examples, len(examples), last_edited=4)
    assert all(len(stems) == 2 and shared > 20 for stems, shared in batch.families)
    assert all(stem.scored == 2 and len(stem.rests) == 2 for stem in batch.stems)


def test_kept_states_that_are_stale_fail(subject, monkeypatch):
    plain = fast_paths.MemoryStore.get
    assert set(states(check_training(subject)).values()) == {OK}
    monkeypatch.setattr(
        fast_paths.MemoryStore, "get", lambda self, row: None if plain(self, row) is None else -plain(self, row)
    )
    assert set(states(check_training(subject)).values()) == {FAILED}


def test_gradients_are_compared_apart_from_the_loss(subject, monkeypatch):
    plain = prefix.answer_loss_on_prefixes

    def same_loss_weaker_gradient(model, batch, reuse):
        loss = plain(model, batch, reuse)
        return loss.detach() + 0.9 * (loss - loss.detach())

    monkeypatch.setattr(prefix, "answer_loss_on_prefixes", same_loss_weaker_gradient)
    assert states(check_training(subject)) == {"reuse in training: loss": OK, "reuse in training: gradients": FAILED}


def test_lower_layers_that_are_not_what_was_skipped_fail(adapters, monkeypatch):
    subject = open_subject(adapters("upper"), rows=2)
    findings = check_training(subject)
    assert set(states(findings).values()) == {OK}
    assert "layers 0 to 1 cached" in findings[0].compared
    plain = fast_paths.MemoryStore.get
    monkeypatch.setattr(
        fast_paths.MemoryStore, "get", lambda self, row: None if plain(self, row) is None else -plain(self, row)
    )
    assert set(states(check_training(subject)).values()) == {FAILED}


def test_a_folder_that_does_something_else_in_peft_fails(adapters, monkeypatch):
    plain = peft.PeftModel.from_pretrained

    def without_effect(base, folder):
        model = plain(base, folder)
        for name, value in model.named_parameters():
            if ".lora_B." in name:
                value.data.zero_()
        return model

    monkeypatch.setattr("heft.verify.logits.PeftModel.from_pretrained", without_effect)
    subject = open_subject(adapters("last"), rows=2)
    assert states(check_plain_peft(subject)) == {"coarse in plain PEFT": FAILED}


def test_a_folder_that_peft_cannot_load_fails_with_its_words(adapters, monkeypatch):
    def refuse(base, folder):
        raise ValueError("unknown key")

    monkeypatch.setattr("heft.verify.logits.PeftModel.from_pretrained", refuse)
    (finding,) = check_plain_peft(open_subject(adapters("last"), rows=2))
    assert finding.state == FAILED
    assert finding.compared == "it ended in ValueError: unknown key"
