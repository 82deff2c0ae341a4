"""Prompts with answers, and what a model says of them: one unpadded row a pass, prompt lengths given, by hand."""

import torch
from datasets import Dataset

from reft.support import token_ids
from tiny import byte_tokenizer

PROMPT_LENGTHS = (5, 9, 4, 7)
ANSWER_LENGTHS = (3, 2, 5, 4)


def examples() -> list[tuple[list[int], list[int]]]:
    """Four prompts with answers, as ids, of unlike lengths."""
    rows = []
    for number, (prompt, answer) in enumerate(zip(PROMPT_LENGTHS, ANSWER_LENGTHS, strict=True)):
        ids = token_ids(1, prompt + answer, seed=20 + number)[0].tolist()
        rows.append((ids[:prompt], ids[prompt:]))
    return rows


def labelled_rows() -> list[dict[str, list[int]]]:
    """The examples as a collator takes them: ids, and labels in which the prompt is -100."""
    return [{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in examples()]


def text_rows() -> Dataset:
    """Prompts and completions as text."""
    return Dataset.from_list(
        [
            {"prompt": "Who is in the hall? ", "completion": "Mary"},
            {"prompt": "Who? ", "completion": "John, I think"},
            {"prompt": "Where has Ada gone? ", "completion": "out"},
            {"prompt": "Is it cold? ", "completion": "yes, very"},
        ]
    )


def text_examples() -> list[tuple[list[int], list[int]]]:
    """The text rows as ids; a completion ends with the EOS token."""
    tokenizer = byte_tokenizer()
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    return [(encode(row["prompt"]), encode(row["completion"]) + [tokenizer.eos_token_id]) for row in text_rows()]


@torch.no_grad()
def answer_log_probs(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """ln p of each token of an answer, from a pass over this row alone."""
    ids = torch.tensor([prompt + answer])
    log_probs = model(input_ids=ids, prompt_lengths=[len(prompt)], use_cache=False).logits[0].double().log_softmax(-1)
    return log_probs[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None])[:, 0]


def independent_loss(model, rows: list[tuple[list[int], list[int]]]) -> float:
    """Mean of -ln p over the answers' tokens."""
    was_training = model.training
    model.eval()
    loss = -torch.cat([answer_log_probs(model, prompt, answer) for prompt, answer in rows]).mean().item()
    model.train(was_training)
    return loss


def smoothed_loss(model, rows: list[tuple[list[int], list[int]]], epsilon: float) -> float:
    """As `independent_loss`, with label smoothing: (1 − ε)·NLL + ε·mean over the vocabulary of −ln p."""
    plain, uniform = [], []
    with torch.no_grad():
        for prompt, answer in rows:
            ids = torch.tensor([prompt + answer])
            logits = model.eval()(input_ids=ids, prompt_lengths=[len(prompt)], use_cache=False).logits[0]
            log_probs = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
            plain.append(-log_probs.gather(-1, torch.tensor(answer)[:, None])[:, 0])
            uniform.append(-log_probs.mean(-1))
    return ((1 - epsilon) * torch.cat(plain).mean() + epsilon * torch.cat(uniform).mean()).item()
