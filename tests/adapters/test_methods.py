"""What differs between methods is in one table."""

from typing import get_args

import pytest

import tiny
from heft.adapters.attach import attach, attach_adapters, finish
from heft.adapters.manifest import AdapterEntry
from heft.adapters.methods import METHODS, adapters_of
from heft.adapters.safety import method_name
from heft.recipe.recipe import JointStage, LoraStage, ReftStage

STAGES = {"lora": LoraStage(method="lora"), "reft": ReftStage(method="reft", positions="f1+l2")}


def test_the_table_has_the_methods_of_heft_json_and_a_stage_for_each():
    assert set(METHODS) == set(get_args(AdapterEntry.model_fields["method"].annotation)) == set(STAGES)


@pytest.mark.parametrize("name", METHODS)
def test_a_stage_has_one_adapter_of_its_name_which_peft_knows_by_its_method(name):
    model = tiny.tiny_model()
    (adapter,) = adapters_of("a", STAGES[name])
    assert (adapter.name, adapter.method) == ("a", name)
    attach(model, "a", STAGES[name])
    assert method_name(model.peft_config["a"]) == name


def test_a_joint_stage_has_an_adapter_of_each_method_and_the_settings_of_each():
    stage = JointStage(method="joint", lora={"rank": 3}, reft={"positions": "l2"})
    lora, reft = adapters_of("both", stage)
    assert (lora.name, lora.settings.rank, lora.positions) == ("both_lora", 3, None)
    assert (reft.name, str(reft.positions)) == ("both_reft", "l2")


@pytest.mark.parametrize("init", ["default", "pissa", "olora"])
@pytest.mark.parametrize("finished", [False, True])
def test_settings_without_a_start_have_the_shapes_of_the_adapter_that_is_there(init, finished):
    stage = LoraStage(method="lora", rank=2, init=init, rank_pattern={"q_proj": 3})
    model, plain = tiny.tiny_model(), tiny.tiny_model()
    attached = attach(model, "a", stage)
    if finished:
        finish(model, attached)
    (adapter,) = adapters_of("a", stage)
    attach_adapters(plain, "a", [adapter.without_start(finished)])
    shapes = [{name: p.shape for name, p in each.named_parameters()} for each in (model, plain)]
    assert shapes[0] == shapes[1]
