"""A LoRA from elsewhere may update an embedding, whose matrices PEFT keeps by names of their own."""

import pytest
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Embedding
from verify_recipes import TASK

import heft
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.verify.effect import check_effect
from heft.verify.finding import DOES_NOT_APPLY, FAILED, OK
from heft.verify.merging import check_merging
from heft.verify.subject import open_subject
from tiny_recipe import write_recipe


@pytest.fixture
def updated(tmp_path):
    """An adapter directory whose only update, A·`size` times B, is of the input embedding, opened for checks."""

    def make(size):
        base = load_base(ModelSettings(name="random:tiny-llama", device="cpu", dtype="float32")).model
        config = LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_embedding_A" in name:
                parameter.data.fill_(size)
        model.save_pretrained(tmp_path / "peft", save_embedding_layers=False)
        stages = f"{{coarse: {{method: lora, from: '{tmp_path / 'peft'}'}}}}"
        recipe = write_recipe(tmp_path, stages, f"output: {tmp_path / 'run'}", task=TASK)
        return open_subject(heft.train(recipe).directory / "adapter", rows=2)

    return make


def test_an_update_of_nothing_is_no_failure(updated):
    changes, _ = check_effect(updated(0.0))
    assert (changes.check, changes.state) == ("the adapters change something", DOES_NOT_APPLY)
    assert "their largest update is 0" in changes.compared


def test_an_update_of_an_embedding_is_merged_with_the_others(updated, monkeypatch):
    subject = updated(1.0)
    assert [finding.state for finding in check_merging(subject)] == [OK, OK]
    monkeypatch.setattr(Embedding, "get_delta_weight", lambda self, adapter: self.get_base_layer().weight * 0)
    assert check_merging(subject)[0].state == FAILED


def test_an_update_of_an_embedding_that_is_the_output_head_too_is_not_merged(updated):
    subject = updated(1.0)
    head = subject.model.get_output_embeddings()
    head.weight = subject.model.get_input_embeddings().get_base_layer().weight
    (finding,) = check_merging(subject)
    assert finding.state == DOES_NOT_APPLY
    assert "share weights" in finding.compared
