"""torch.compile: no graph break, and the result of the plain call."""

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch._dynamo.utils import counters
from transformers.generation.configuration_utils import CompileConfig

from reft.support import config_of, logits, perturb, reft_parameters, token_ids, with_reft
from tiny import tiny_model

ALIKE = [pytest.param(positions, marks=pytest.mark.long) for positions in ("all", "l2+")]
POSITIONS = ["f2+l2", "lora l2", *ALIKE]


@pytest.fixture(autouse=True)
def _compiled_anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def two_layers():
    return tiny_model(num_hidden_layers=2)


def stacked(positions: str):
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    model = inject_adapter_in_model(lora, two_layers(), adapter_name="coarse")
    return perturb(get_peft_model(model, config_of(positions=positions), adapter_name="fine")).eval()


def padded() -> dict[str, torch.Tensor]:
    ids, mask = token_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_compiled_model_has_no_graph_break_as_lora_alone_has_none(positions):
    model = stacked(positions)
    assert torch._dynamo.explain(model)(input_ids=token_ids(2, 12)).graph_break_count == 0


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [
        *(("f2+l2", None), ("all", [6, 9]), ("f2+l2", [6, 9]), ("lora l2", [6, 9])),
        *(pytest.param(each, None, marks=pytest.mark.long) for each in ("all", "l2+", "lora l2")),
        pytest.param("l2+", [6, 9], marks=pytest.mark.long),
    ],
)
def test_a_model_compiled_as_one_graph_gives_the_plain_logits_of_real_tokens(positions, lengths):
    model, inputs = with_reft(two_layers(), positions=positions), padded()
    told = {} if lengths is None else {"prompt_lengths": torch.tensor(lengths)}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found = compiled(**inputs, **told).logits
        expected = model(**inputs, **told).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(found[real], expected[real], atol=1e-5)
    with torch.no_grad(), model.disable_adapter():
        assert not torch.allclose(model(**inputs).logits[real], expected[real], atol=1e-2)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_compiled_training_step_has_the_plain_loss_and_gradients(positions):
    model, inputs = with_reft(two_layers(), positions=positions).train(), padded()
    inputs["labels"] = inputs["input_ids"].clone()
    inputs["labels"][:, :9] = -100
    results = []
    for call in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        loss = call(**inputs).loss
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in reft_parameters(model).values()]))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    for plain, compiled in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-5 * plain.abs().max().item() + 1e-9)


def test_a_row_labelled_from_its_first_token_on_is_refused_in_compiled_code_too():
    model, ids = with_reft(positions="l2"), token_ids(2, 6)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(RuntimeError, match="no prompt for a ReFT edit"):
        compiled(input_ids=ids, labels=ids)


def test_packed_rows_have_the_plain_logits_when_compiled():
    model, ids = with_reft(positions="f1+l1"), token_ids(1, 12)
    inputs = {"input_ids": ids, "position_ids": torch.cat([torch.arange(5), torch.arange(7)])[None], "use_cache": False}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found = compiled(**inputs, prompt_lengths=torch.tensor([3, 4])).logits
        assert torch.allclose(found, model(**inputs, prompt_lengths=[3, 4]).logits, atol=1e-5)


def test_plain_calls_and_generation_go_on_as_before_after_a_compiled_one():
    model, ids = with_reft(positions="f2+l2"), token_ids(2, 8)
    before, answer = logits(model, ids), model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        torch.compile(model, backend="eager")(input_ids=ids)
    assert torch.equal(logits(model, ids), before)
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=4, do_sample=False), answer)


def test_blocks_compiled_one_by_one_give_the_plain_logits():
    model, ids = with_reft(positions="f2+l2"), token_ids(2, 8)
    expected = logits(model, ids)
    for block in model.get_base_model().model.layers:
        block.compile(backend="eager")
    assert torch.allclose(logits(model, ids), expected, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_compiled_generation_on_a_static_cache_breaks_no_graph_and_has_the_tokens(positions):
    model, inputs = with_reft(two_layers(), positions=positions), padded()
    del inputs["position_ids"]
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**inputs, **options)
    compiling = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compiling._compile_all_devices = True
    counters.clear()
    found = model.generate(**inputs, **options, cache_implementation="static", compile_config=compiling)
    assert torch.equal(found, expected)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 2  # the model's, and that of where its prompts are


@pytest.mark.parametrize("positions", ["all", pytest.param("f2+l2", marks=pytest.mark.long)])
def test_a_model_that_breaks_its_graph_itself_has_the_plain_logits_call_after_call(positions):
    model, ids = with_reft(two_layers(), positions=positions), token_ids(2, 8)
    expected = logits(model, ids)
    model.get_base_model().model.layers[1].mlp.register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(compiled(input_ids=ids).logits, expected, atol=1e-5)
    assert torch.equal(logits(model, ids), expected)
