"""heft's model class in lm-evaluation-harness gives `heft eval`'s figures, and on a base model those of HFLM."""

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import heft
from calls.examples import answer_log_probs
from harness.made_tasks import PASSAGES, own_settings, write_tasks
from heft.adapters.attach import adapter_parameters, attach, finish
from heft.adapters.manifest import AdapterEntry
from heft.builtin import TINY
from heft.harness.model import HeftLM
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import EvaluationSettings, LoraStage, ReftStage
from saving import save_adapters

TOLERANCE = 1e-4
STAGES = {
    "coarse": LoraStage(method="lora", rank=2, steps=1),
    "fine": ReftStage(method="reft", rank=2, positions="f2+l3", tied=False, steps=1),
}
CHOICES = ["own_boolq", "own_piqa"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def manager(folder):
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """LoRA and then ReFT at both ends of a prompt, both moved far from the identity."""
    base, entries = load_base(ModelSettings(name=TINY, device="cpu")), []
    for name, stage in STAGES.items():
        attached = attach(base.model, name, stage)
        with torch.no_grad():
            for parameter in adapter_parameters(base.model, attached.names).values():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
        finish(base.model, attached)
        entries.append(AdapterEntry(name=name, method=stage.method, stage=name))
    return save_adapters(tmp_path_factory.mktemp("run") / "adapter", base, entries)


def samples(lm, manager, *tasks, **options):
    found = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options)
    return found["samples"]


def answers(rows):
    """The log-likelihoods of each row's choices, and the likeliest choice."""
    scores = [[score for ((score, _),) in row["resps"]] for row in rows]
    return scores, [max(range(len(each)), key=each.__getitem__) for each in scores]


@pytest.mark.parametrize("batch_size", [1, 8, 16])
@pytest.mark.parametrize("share_prefix", [True, False], ids=["shared", "plain"])
def test_choices_have_the_log_likelihoods_and_the_answers_of_heft_eval(
    directory, folder, manager, batch_size, share_prefix
):
    lm = HeftLM(
        str(directory), batch_size=batch_size, device="cpu", settings=[f"evaluation.share_prefix={share_prefix}"]
    )
    found = samples(lm, manager, *CHOICES)
    model, tokenizer = heft.load(directory, device="cpu")
    for name, settings in own_settings(folder).items():
        records = heft.evaluate(model, tokenizer, settings, EvaluationSettings(batch_size=16)).records
        scores, predictions = answers(found[name])
        assert scores == [pytest.approx(record.log_likelihoods, abs=TOLERANCE) for record in records]
        assert predictions == [record.prediction for record in records]
        assert [row["acc"] for row in found[name]] == [float(record.correct) for record in records]


def test_the_adapters_matter_and_so_does_where_they_act(directory, manager):
    """Else agreement would show nothing: HFLM, which does not say where prompts end, gives other figures."""
    model, tokenizer = heft.load(directory, device="cpu")
    right, _ = answers(samples(HeftLM(model, tokenizer), manager, "own_piqa")["own_piqa"])
    off, _ = answers(samples(HeftLM(str(directory), stages="base"), manager, "own_piqa")["own_piqa"])
    hflm, _ = answers(samples(HFLM(pretrained=model, tokenizer=tokenizer), manager, "own_piqa")["own_piqa"])
    for other in (off, hflm):
        pairs = zip(right, other, strict=True)
        assert max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True)) > 1000 * TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 8])
def test_on_a_base_model_all_requests_are_answered_as_by_hflm(manager, batch_size):
    """Scores, their greedy flags, rolling windows longer than the model's length, generated texts."""
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    tasks = [*CHOICES, "own_texts", "own_generated"]
    options = {"batch_size": batch_size, "max_length": 120, "tokenizer": base.tokenizer}
    ours = samples(HeftLM(base.model, **options), manager, *tasks)
    theirs = samples(HFLM(pretrained=base.model, **options), manager, *tasks)
    for name in CHOICES:
        (mine, my_answers), (its, its_answers) = answers(ours[name]), answers(theirs[name])
        assert mine == [pytest.approx(each, abs=TOLERANCE) for each in its]
        assert my_answers == its_answers
        flags = [[[r[0][1] for r in row["resps"]] for row in rows[name]] for rows in (ours, theirs)]
        assert flags[0] == flags[1]
    rolled = [[row["resps"][0][0] for row in rows["own_texts"]] for rows in (ours, theirs)]
    assert rolled[0] == pytest.approx(rolled[1], abs=TOLERANCE * len(PASSAGES[0]))
    assert [row["resps"] for row in ours["own_generated"]] == [row["resps"] for row in theirs["own_generated"]]


def test_a_rolling_windows_prompt_is_what_stands_before_its_first_scored_token(directory):
    lm = HeftLM(str(directory), max_length=40, device="cpu")
    text = PASSAGES[1]
    ids = lm.tok_encode(text)
    assert 40 < len(ids) < 80
    expected = answer_log_probs(lm.model, [lm.prefix_token_id], ids[:40]).sum()
    repeated = 40 - (len(ids) - 40) + 1
    expected += answer_log_probs(lm.model, ids[40 - repeated : 40], ids[40:]).sum()
    (found,) = lm.loglikelihood_rolling([_request("loglikelihood_rolling", text)])
    assert found == pytest.approx(expected.item(), abs=TOLERANCE)


def test_an_empty_context_is_a_prompt_of_the_prefix_token(directory):
    lm = HeftLM(str(directory), device="cpu")
    ((score, greedy),) = lm.loglikelihood([_request("loglikelihood", "", " no")])
    ids = lm.tok_encode(" no", add_special_tokens=False)
    assert score == pytest.approx(answer_log_probs(lm.model, [lm.prefix_token_id], ids).sum().item(), abs=TOLERANCE)
    assert greedy is False


def test_the_greedy_flag_is_true_just_for_what_greedy_decoding_gives(directory):
    lm = HeftLM(str(directory), device="cpu")
    context = "Question: is it cold?\nAnswer:"
    prompt = lm.tok_encode(context)
    ids = list(prompt)
    for _ in range(3):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids]), prompt_lengths=[len(prompt)]).logits
        ids.append(logits[0, -1].argmax().item())
    likely = ids[len(prompt) :]
    other = [*likely[:2], (likely[2] + 1) % 250 + 3]
    found = lm._loglikelihood_tokens([(("c", "1"), prompt, likely), (("c", "2"), prompt, other)])
    assert [greedy for _, greedy in found] == [True, False]


def _request(kind, *args):
    return Instance(kind, {}, args, 0)
