"""TRL's trainers on a ReFT model: each sequence of a batch is edited at its own positions."""

import pytest
import torch
from datasets import Dataset

from calls.examples import answer_log_probs, independent_loss, smoothed_loss, text_examples, text_rows
from calls.trainers import arguments, first_loss
from heft.reft import ReftConfig, with_prompt_lengths
from reft.support import config_of, perturb, with_reft
from tiny import byte_tokenizer, tiny_model

trl = pytest.importorskip("trl")
TOLERANCE = 2e-6  # four float32 roundings of a loss of about 5.5 (2**-21 each)
POSITIONS = ["l2", "f2+l2", "all", "lora l2"]


def sft(model, folder, compute_loss_func=None, **more):
    return trl.SFTTrainer(
        model,
        arguments(folder, trl.SFTConfig, **({"max_length": None} | more)),
        train_dataset=text_rows(),
        processing_class=byte_tokenizer(),
        compute_loss_func=compute_loss_func,
    )


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    "more", [{}, {"packing": True, "max_length": 64}, {"padding_free": True}], ids=["padded", "packed", "free"]
)
def test_sft_has_the_loss_of_one_row_a_pass_padded_packed_and_free(positions, more, tmp_path, monkeypatch):
    model = with_reft(positions=positions)
    expected = independent_loss(model, text_examples())
    assert first_loss(sft(model, tmp_path, **more), monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    "more", [{}, {"packing": True, "max_length": 64}, {"padding_free": True}], ids=["padded", "packed", "free"]
)
def test_sft_with_label_smoothing_is_refused_or_has_the_loss_by_hand(more, tmp_path, monkeypatch):
    model = with_reft(positions="f2+l2")
    expected = smoothed_loss(model, text_examples(), 0.1)
    trainer = sft(model, tmp_path, label_smoothing_factor=0.1, **more)
    with pytest.raises(ValueError, match="with_prompt_lengths"):
        trainer.train()
    trainer = sft(model, tmp_path, label_smoothing_factor=0.1, **more)
    trainer.data_collator = with_prompt_lengths(trainer.data_collator)
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


def test_sft_with_a_loss_function_is_refused_or_has_the_loss_by_hand(tmp_path, monkeypatch):
    def mean_loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    model = with_reft(positions="l2")
    with pytest.raises(ValueError, match="with_prompt_lengths"):
        sft(model, tmp_path, mean_loss).train()
    trainer = sft(model, tmp_path, mean_loss)
    trainer.data_collator = with_prompt_lengths(trainer.data_collator)
    expected = independent_loss(model, text_examples())
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


def preferences() -> Dataset:
    rows = zip(text_rows(), reversed(list(text_rows())), strict=True)
    return Dataset.from_list(
        [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"{o['completion']}!"} for row, o in rows]
    )


@pytest.mark.parametrize("positions", POSITIONS)
def test_dpo_with_a_reft_config_has_the_loss_by_hand(positions, tmp_path, monkeypatch):
    """−ln σ(β((π − ref)(chosen) − (π − ref)(rejected))), with the base as reference."""
    trainer = trl.DPOTrainer(
        tiny_model(),
        args=arguments(tmp_path, trl.DPOConfig, beta=0.1),
        train_dataset=preferences(),
        processing_class=byte_tokenizer(),
        peft_config=config_of(positions=positions),
    )
    model, base = perturb(trainer.model), tiny_model()
    tokenizer = byte_tokenizer()
    margins = []
    for row in preferences():
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        ratios = []
        for key in ("chosen", "rejected"):
            answer = tokenizer(row[key], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            with torch.no_grad():
                plain = base(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
            reference = plain[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None]).sum()
            ratios.append(answer_log_probs(model.eval(), prompt, answer).sum() - reference)
        margins.append(ratios[0] - ratios[1])
    expected = -torch.nn.functional.logsigmoid(0.1 * torch.stack(margins)).mean().item()
    assert abs(expected - 0.6931) > 1e-3
    # a log-ratio is a difference of sums of about 70, rounded at 2**-18, of which β takes a tenth
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=4e-6)


def test_grpo_with_a_reft_config_scores_completions_like_one_row_a_pass(tmp_path):
    trainer = trl.GRPOTrainer(
        tiny_model(),
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        args=arguments(tmp_path, trl.GRPOConfig, num_generations=2, max_completion_length=6),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in text_rows()]),
        processing_class=byte_tokenizer(),
        peft_config=ReftConfig(task_type="CAUSAL_LM", positions="f2+l2"),
    )
    model = perturb(trainer.model)
    batch = trainer._generate_and_score_completions([{"prompt": row["prompt"]} for row in text_rows() for _ in (0, 1)])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].shape[1]
    log_probs = trainer._get_per_token_logps_and_entropies(model.train(), ids, mask, width)[0]
    for row in range(len(ids)):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        answer = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        alone = answer_log_probs(model.eval(), prompt, answer)
        assert torch.allclose(log_probs[row, : len(answer)].double(), alone, atol=1e-5)  # ln p of about -6
