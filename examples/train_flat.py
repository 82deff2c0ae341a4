"""The whole method in one file: LoRA, then LoReFT on top of it, frozen. No Trainer, no recipe, nothing of heft's but
the made-up rows (replace `rows` by your own prompts, choices and right answers).

    python examples/train_flat.py --model PATH_OR_HUB_ID

`heft train` with the same settings reaches the same loss; tests/test_train_flat.py holds the two to it.
"""

import argparse
from dataclasses import dataclass, field
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup


@dataclass
class Stage:
    """How one stage is trained."""

    learning_rate: float
    steps: int
    batch_size: int = 24
    warmup: float = 0.1
    losses: list[float] = field(default_factory=list)


def rows(split: Literal["train", "eval"], count: int) -> list[tuple[str, list[str], int]]:
    """(prompt, choices, index of the right one); choices start with a space."""
    from heft.tasks import load_examples
    from heft.tasks.whereabouts import WhereaboutsSettings

    settings = WhereaboutsSettings(train_size=count, eval_size=count)
    examples = load_examples(settings, split)
    return [(example.prompt, list(example.choices), example.choices.index(example.answer)) for example in examples]


def left_padded(sequences: list[list[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Token ids padded on the left, with mask and positions counted over real tokens."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (width - len(s)) + s for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


class LoReFT(nn.Module):
    """h + (Wh + b − Rh)R on the last few prompt tokens of one block's output; R has orthonormal rows."""

    def __init__(self, hidden_size: int, rank: int):
        super().__init__()
        self.raw = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, hidden_size)))
        self.weight = nn.Parameter(self.rotation().detach().clone())  # W = R, b = 0: no change at first
        self.bias = nn.Parameter(torch.zeros(rank))
        self.where: tuple[torch.Tensor, ...] | None = None  # rows and columns to edit, set for each batch

    def rotation(self) -> torch.Tensor:
        """Orthonormal rows that span the rows of `raw` (QR, with the signs that keep R = raw where that is one)."""
        q, r = torch.linalg.qr(self.raw.T)
        return (q * r.diagonal().sign()).T

    def edit(self, module: nn.Module, args: tuple, output):
        """Forward hook."""
        hidden = output[0] if isinstance(output, tuple) else output
        rotation, chosen = self.rotation(), hidden[self.where]
        low_rank = F.linear(chosen, self.weight - rotation, self.bias)
        edited = hidden.clone()
        edited[self.where] = chosen + low_rank @ rotation
        return (edited, *output[1:]) if isinstance(output, tuple) else edited


class Method:
    """A frozen model with what the stages add."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.edits: list[LoReFT] = []
        self.last = 0

    def add_lora(self, seed: int, rank: int = 8, alpha: int = 16) -> list[nn.Parameter]:
        """Coarse: a low-rank update of every linear weight, by PEFT."""
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), self.model)
        return [p for p in self.model.parameters() if p.requires_grad]

    def add_reft(self, seed: int, rank: int = 8, last: int = 4) -> list[nn.Parameter]:
        """Fine: an edit of the last prompt tokens after every block; all before is frozen and stays active."""
        torch.manual_seed(seed)
        self.model.requires_grad_(False)
        self.last = last
        for block in self.model.get_decoder().layers:
            edit = LoReFT(self.model.config.hidden_size, rank)
            block.register_forward_hook(edit.edit)
            self.edits.append(edit)
        return [p for edit in self.edits for p in edit.parameters()]

    def tokens(self, text: str, start: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=start)["input_ids"]

    def logits(self, prompts: list[list[int]], answers: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K, V) at the columns that predict answers, and the answers (B, K), −100 elsewhere."""
        batch = left_padded([p + a for p, a in zip(prompts, answers, strict=True)], self.tokenizer.pad_token_id)
        ends = [len(a) for a in answers]  # an answer ends in the last column
        width, longest = batch["input_ids"].shape[1], max(ends)
        places = [(i, width - end - k) for i, end in enumerate(ends) for k in range(1, self.last + 1)]
        for edit in self.edits:
            edit.where = torch.tensor(places).T.unbind()
        logits = self.model(**batch, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
        targets = torch.tensor([[-100] * (longest - len(a)) + a for a in answers])
        return logits.float(), targets

    def train(self, parameters: list[nn.Parameter], stage: Stage, data: list, seed: int) -> None:
        """Mean cross entropy of the answer tokens, AdamW, linear warm-up and decay, clipped gradients."""
        optimizer = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=0.0)
        schedule = get_linear_schedule_with_warmup(optimizer, round(stage.warmup * stage.steps), stage.steps)
        encoded = [(self.tokens(prompt, start=True), self.tokens(choices[gold])) for prompt, choices, gold in data]
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = []
        for _ in range(stage.steps):
            if not order:
                order = torch.randperm(len(encoded), generator=generator).tolist()
            picked, order = order[: stage.batch_size], order[stage.batch_size :]
            logits, targets = self.logits(*map(list, zip(*(encoded[i] for i in picked), strict=True)))
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            stage.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, data: list) -> float:
        """Share of rows whose right choice is the likeliest."""
        correct = 0
        for prompt, choices, gold in data:
            answers = [self.tokens(choice) for choice in choices]
            logits, targets = self.logits([self.tokens(prompt, start=True)] * len(choices), answers)
            losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
            correct += losses.sum(1).argmin().item() == gold
        return correct / len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder of a causal language model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    method = Method(AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32), tokenizer)
    train, held_out = rows("train", 2000), rows("eval", 200)
    print(f"base    {method.accuracy(held_out):.3f}")
    coarse = Stage(learning_rate=5e-4, steps=20)
    method.train(method.add_lora(options.seed), coarse, train, options.seed)
    print(f"coarse  {method.accuracy(held_out):.3f}   loss {coarse.losses[-1]:.3f}")
    fine = Stage(learning_rate=2e-3, steps=40)
    method.train(method.add_reft(options.seed + 1), fine, train, options.seed + 1)
    print(f"fine    {method.accuracy(held_out):.3f}   loss {fine.losses[-1]:.3f}")


if __name__ == "__main__":
    main()
