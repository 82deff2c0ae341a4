"""What several tests of heft.reft need: trained-looking adapters, and a look at which tokens were edited."""

from contextlib import contextmanager

import torch
from peft import get_peft_model

from heft.alora import ActivatedLoraConfig
from heft.reft import ReftConfig
from heft.reft.interventions import Intervention
from heft.reft.layer import ReftLayer
from tiny import tiny_model


def token_ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random (B, T) ids of ordinary tokens."""
    return torch.randint(3, 259, (batch, length), generator=torch.Generator().manual_seed(seed))


def reft_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Of ReFT, and every B of LoRA with positions."""
    placed = [n for n, config in getattr(model, "peft_config", {}).items() if isinstance(config, ActivatedLoraConfig)]
    kinds = (".reft_", *(f".lora_B.{name}." for name in placed))
    return {name: p for name, p in model.named_parameters() if any(kind in name for kind in kinds)}


def perturb(model: torch.nn.Module, scale: float = 0.5, seed: int = 1) -> torch.nn.Module:
    """Move every weight of `reft_parameters` off its start, as training would, the same way at every call."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in reft_parameters(model).values():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def config_of(**settings) -> ReftConfig | ActivatedLoraConfig:
    """Of ReFT; positions such as "lora l2" make it one of LoRA, on those positions."""
    positions = settings.get("positions", "")
    if not positions.startswith("lora "):
        return ReftConfig(task_type="CAUSAL_LM", **settings)
    own = {"r": 4, "target_modules": "all-linear", "positions": positions.removeprefix("lora ")}
    return ActivatedLoraConfig(task_type="CAUSAL_LM", **own)


def with_reft(model: torch.nn.Module | str = "llama", trained: bool = True, adapter_name: str = "default", **settings):
    """A PEFT model in eval mode with one adapter of `config_of`; `trained` ones are off the identity."""
    model = tiny_model(model) if isinstance(model, str) else model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        peft_model = get_peft_model(model, config_of(**settings), adapter_name=adapter_name)
    return (perturb(peft_model) if trained else peft_model).eval()


def logits(model: torch.nn.Module, ids: torch.Tensor, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


def edited_tokens(model, ids: torch.Tensor, **kwargs) -> list[set[int]]:
    """Per row, the columns whose first block's output an adapter on layer 0 changes: what was edited, from outside."""
    with torch.no_grad():
        edited = model(input_ids=ids, output_hidden_states=True, **kwargs).hidden_states[1]
        with model.disable_adapter():
            plain = model(input_ids=ids, output_hidden_states=True, **kwargs).hidden_states[1]
    changed = (edited != plain).any(-1)
    return [set(row.nonzero().flatten().tolist()) for row in changed]


@contextmanager
def counted_edits(model: torch.nn.Module):
    """Yield a list that receives, for each call of an edit unit, how many tokens it edited."""
    counts: list[int] = []
    units = [module for module in model.modules() if isinstance(module, Intervention)]
    handles = [unit.register_forward_pre_hook(lambda _, args: counts.append(len(args[0]))) for unit in units]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def reft_layers(model: torch.nn.Module) -> list[ReftLayer]:
    return [module for module in model.modules() if isinstance(module, ReftLayer)]
