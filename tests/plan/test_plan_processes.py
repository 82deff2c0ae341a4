"""`heft plan --processes`: what each of several processes holds and computes, worked out by hand."""

import pytest
import torch

from commands import heft
from heft.builtin import tiny_llama
from heft.cli.plan import notes, summary
from heft.costs.processes import Processes
from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.recipe.recipe import LoraStage

LORA = "{coarse: {method: lora, rank: 2, epochs: 1, batch_size: 8}}"
RATE = 1e12


@pytest.fixture
def planned(recipe_file):
    def plan(processes, distributed="fsdp2", stages=LORA, **options):
        recipe = load_recipe(recipe_file(stages), [f"distributed={distributed}"])
        return make_plan(recipe, processes=processes, rate=RATE, **options)

    return plan


def sizes(model):
    """Bytes of the embeddings and the last norm, of one block, and of the head, from the shapes in the config."""
    c = model.config
    queries, keys = c.hidden_size * c.hidden_size, c.hidden_size * c.num_key_value_heads * c.head_dim
    block = 2 * queries + 2 * keys + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size
    table = c.vocab_size * c.hidden_size
    return 4 * (table + c.hidden_size), 4 * block, 4 * table


def test_a_device_holds_its_slices_and_what_runs_whole_embeddings_and_two_blocks():
    around, block, head = sizes(tiny_llama())
    assert Processes(4, is_sharded=True).whole_bytes(tiny_llama()) == max(around + 2 * block, head)
    assert Processes(4).whole_bytes(tiny_llama()) == 0


def test_a_head_that_is_tied_to_the_embeddings_is_whole_on_every_device():
    model = tiny_llama()
    around, block, head = sizes(model)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.get_input_embeddings().weight
    assert Processes(2, is_sharded=True).whole_bytes(model) == around + 2 * block + head


@pytest.mark.parametrize(
    ("batch_size", "micro", "count", "expected"), [(8, None, 1, 8), (8, None, 4, 2), (8, 2, 2, 2), (6, None, 4, 2)]
)
def test_each_process_runs_its_part_of_a_micro_batch(batch_size, micro, count, expected):
    stage = LoraStage(method="lora", epochs=1, batch_size=batch_size, micro_batch_size=micro)
    assert Processes(count).rows(stage, 100) == expected


def test_what_is_shared_out_takes_less_of_each_device_and_as_much_of_main_memory_as_the_model(planned):
    one, two, four = planned(1), planned(2), planned(4)
    assert [each.is_sharded for each in (one, two, four)] == [False, True, True]
    whole = Processes(2, is_sharded=True).whole_bytes(tiny_llama())
    assert two.device_weight_bytes == one.weight_bytes / 2 + whole
    assert four.device_weight_bytes == one.weight_bytes / 4 + whole
    assert (one.host_weight_bytes, two.host_weight_bytes) == (0, one.weight_bytes)
    assert four.stages[0].peak_bytes < two.stages[0].peak_bytes < one.stages[0].peak_bytes


def test_training_is_shared_out_and_evaluation_is_not(planned):
    one, four = planned(1).stages[0], planned(4, "ddp").stages[0]
    assert four.flops == one.flops
    assert four.seconds == pytest.approx(one.flops / RATE / 4)
    assert four.evaluation_seconds == one.evaluation_seconds > 0


def test_with_ddp_every_process_has_the_whole_model(planned):
    one, four = planned(1), planned(4, "ddp")
    assert not four.is_sharded
    assert four.device_weight_bytes == one.weight_bytes
    assert four.stages[0].peak_bytes < one.stages[0].peak_bytes  # fewer rows run together


def test_prefixes_are_not_reused_where_the_model_is_shared_out(planned):
    fine = "{fine: {method: reft, positions: l2, epochs: 2}}"
    assert planned(2, "ddp", fine).stages[0].reuse.kind == "prefixes"
    assert "the model is sharded" in planned(2, "fsdp2", fine).stages[0].reuse.why_not


def test_devices_that_are_not_here_are_planned_for_in_the_dtype_that_they_have(recipe_file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = load_recipe(recipe_file(LORA), ["model.dtype=auto"])
    found = make_plan(recipe, probe_seconds=0, on="cuda")
    assert (found.device, found.weight_bytes) == ("cuda", 2 * found.parameters)
    with pytest.raises(HeftError, match=r"no cuda device to measure: give its rate \(--rate 4e14\), or add --no-probe"):
        make_plan(recipe, on="cuda")
    found = make_plan(recipe, processes=2, on="cuda", rate=4e14)
    said = " ".join([*summary(found), *notes(found)])
    assert "400 TFLOP/s, as given for each device" in said
    assert "2 processes, each with the whole model (DistributedDataParallel)" in said


def test_a_kind_of_device_that_is_here_is_measured_though_the_recipe_would_take_another(recipe_file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = make_plan(load_recipe(recipe_file(LORA), ["model.device=auto"]), probe_seconds=0.01, on="cpu")
    assert found.device == "cpu"
    assert found.is_measured
    assert found.flops_per_second > 0


def test_a_rate_that_is_none_is_refused(recipe_file):
    done = heft("plan", recipe_file(LORA), "--rate", "nan")
    assert done.returncode == 2
    assert "expected FLOPs a second of one device" in " ".join(done.stderr.split())


def test_a_sweep_runs_in_one_process(recipe_file):
    with pytest.raises(HeftError, match="a sweep runs in one process"):
        make_plan(load_recipe(recipe_file(LORA, "sweep: {grid: {rank: [1, 2]}}")), processes=2, rate=RATE)
