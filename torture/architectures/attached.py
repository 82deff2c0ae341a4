"""ReFT on a model through PEFT, against a computation of its own: other hooks, another way to find the blocks, R by QR.

Shapes: B rows, T tokens, K last tokens of a row, V vocabulary, N generated tokens, s streams of a hidden state.
"""

import inspect
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from forks import frames, in_words
from peft import PeftModel, get_peft_model
from torch import nn

from heft.reft import ReftConfig, ReftLayer
from heft.reft.sites import block_names

LENGTHS = (23, 17, 29)
COMPARED = 10
NEW_TOKENS = 5
EXACT = 1e-4
"""Largest difference of logits, as a share of the largest logit, that rounding may make in float32."""
TIMES = 3
"""Of what the base itself shows between the same two ways."""
_TOWERS = ("vision", "audio", "visual", "image", "encoder.layers")


@dataclass(frozen=True)
class Edited:
    """A model with ReFT on one site, random weights in it, and its logits (B, K, V)."""

    model: nn.Module
    logits: torch.Tensor
    sites: list[str]


def check(folder: Path) -> dict:
    """What was seen, in numbers; what failed, in words; and the sites that heft refused, with its reason."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    texts = _texts()
    base = _load(folder)
    found: dict = {"class": type(base).__name__, "faults": {}, "refused": {}}
    with torch.no_grad():
        base_logits = _tried(lambda: _logits(base, texts))
        if isinstance(base_logits, str):
            return found | {"not_run": base_logits}
        found["base"] = {
            "padding": _tried(lambda: _apart(base_logits, _logits(base, texts, "right"))),
            "cache": _tried(lambda: _compare(_generated(base, texts, True), _generated(base, texts, False))),
        }
    for site in ("block", "attention", "mlp"):
        try:
            edited = _attach(folder, site, texts)
        except Exception as error:
            if isinstance(error, ValueError):
                found["refused"][site] = str(error)
            else:
                found["faults"][site] = f"{in_words(error)} ({' < '.join(frames(error))})"
            continue
        numbers = found[site] = {}
        with torch.no_grad():
            numbers["own"] = _tried(lambda: _apart(edited.logits, _own(base, edited, texts)))  # noqa: B023
        numbers["scale"] = edited.logits.abs().max().item()
        numbers["effect"] = _apart(edited.logits, base_logits)
        if site == "block":
            _whole(folder, edited, texts, base, numbers)
        found["faults"] |= {f"{site}: {k}": v for k, v in _judged(numbers, found["base"]).items()}
    return found


def _whole(folder: Path, edited: Edited, texts: list, base: nn.Module, numbers: dict) -> None:
    """All ways of running an edited model against each other."""
    model = edited.model
    mine = _blocks(base)
    if mine is not None and mine != block_names(base):
        numbers["blocks"] = f"{block_names(base)[0]} instead of {mine[0]}"
    with torch.no_grad():
        numbers["padding"] = _tried(lambda: _apart(edited.logits, _logits(model, texts, "right")))
        numbers["alone"] = _tried(lambda: _apart(edited.logits, torch.cat([_logits(model, [text]) for text in texts])))
        cached = _tried(lambda: _generated(model, texts, True))
        numbers["cache"] = (
            cached if isinstance(cached, str) else _tried(lambda: _compare(cached, _generated(model, texts, False)))
        )
        if not isinstance(cached, str):
            numbers["one pass"] = _tried(lambda: _apart(cached[1], _in_one_pass(model, texts, cached[0])))
        numbers["reload"] = _tried(lambda: _apart(edited.logits, _reloaded(folder, model, texts)))
    model.requires_grad_(False)
    layers = [module for module in model.modules() if isinstance(module, ReftLayer)]
    for layer in layers:
        layer.requires_grad_(True)
    _logits(model, texts).square().sum().backward()
    numbers["without gradient"] = sum(
        all(p.grad is None or not p.grad.any() for p in layer.parameters()) for layer in layers
    )


def _judged(numbers: dict, base: dict) -> dict[str, str]:
    """What is wrong; what the base itself shows between two ways, by padding or a cache, is not heft's."""
    exact = EXACT * max(1e-3, numbers["scale"])
    faults = {}
    for key in ("own", "padding", "alone", "cache", "one pass", "reload"):
        value = numbers.get(key, 0.0)
        of_base = base[{"padding": "padding", "alone": "padding"}.get(key, "cache")]
        if isinstance(value, str):
            if key in ("own", "reload") or not (isinstance(of_base, str) or of_base > exact):
                faults[key] = value
        elif not value <= max(exact, TIMES * of_base if key != "own" and not isinstance(of_base, str) else 0):
            faults[key] = f"differs by {value:.1e} of {numbers['scale']:.1f}"
    if not numbers["effect"] > exact:
        faults["effect"] = "the edits change nothing"
    if numbers.get("without gradient"):
        faults["gradient"] = f"{numbers['without gradient']} edits have no gradient"
    if "blocks" in numbers:
        faults["blocks"] = numbers["blocks"]
    return faults


def _attach(folder: Path, site: str, texts: list) -> Edited:
    config = ReftConfig(positions="f1+l1", tied=False, rank=4, site=site, task_type="CAUSAL_LM")
    model = get_peft_model(_load(folder), config).eval()
    numbers = torch.Generator().manual_seed(3)
    inner = model.get_base_model()
    sites = []
    for name, module in inner.named_modules():
        if isinstance(module, ReftLayer):
            sites.append(name.rpartition(".")[0])
            for parameter in module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=numbers) * 0.3
    with torch.no_grad():
        return Edited(model, _logits(model, texts), sites)


def _own(base: nn.Module, edited: Edited, texts: list) -> torch.Tensor:
    """Logits of the base with the same edits by hooks of this file."""
    width = max(map(len, texts))
    ends = [(width - len(text), width - 1) for text in texts]
    layers = {name: edited.model.get_base_model().get_submodule(name).reft for name in edited.sites}

    def hook(layer: ReftLayer) -> Callable:
        def edit(module, args, output):
            hidden = output[0] if isinstance(output, tuple | list) else output
            tokens = _by_token(hidden.clone(), len(texts), width, base)
            for row, (first, last) in enumerate(ends):
                tokens[row, first] = _edit(tokens[row, first], layer.reft_first["default"])
                tokens[row, last] = _edit(tokens[row, last], layer.reft_last["default"])
            changed = _as_it_was(tokens, hidden, base)
            return type(output)((changed, *output[1:])) if isinstance(output, tuple | list) else changed

        return edit

    handles = [base.get_submodule(name).register_forward_hook(hook(layer)) for name, layer in layers.items()]
    try:
        return _logits(base, texts)
    finally:
        for handle in handles:
            handle.remove()


def _by_token(hidden: torch.Tensor, batch: int, width: int, base: nn.Module) -> torch.Tensor:
    """What a block gives as (B, T, d) or (B, T, s, d); of (s, B, T, d) the stream that the model calls active."""
    if hidden.dim() == 4 and hidden.shape[:2] != (batch, width):
        return hidden[base.config.get_text_config().altup_active_idx]
    size = base.config.get_text_config().hidden_size
    if hidden.shape[-1] != size:
        return hidden.view(batch, width, -1, size)
    return hidden if hidden.dim() > 2 else hidden.view(batch, width, -1)


def _as_it_was(tokens: torch.Tensor, hidden: torch.Tensor, base: nn.Module) -> torch.Tensor:
    if hidden.dim() == 4 and tokens.dim() == 3:
        streams = hidden.clone()
        streams[base.config.get_text_config().altup_active_idx] = tokens
        return streams
    return tokens.view(hidden.shape)


def _edit(hidden: torch.Tensor, unit: nn.Module) -> torch.Tensor:
    """LoReFT: h + (Wh + b − Rh)R; the rows of R by Gram and Schmidt, as the rows of a QR with a positive diagonal."""
    q, r = torch.linalg.qr(unit.rotation.double().T)
    rows = (q * r.diagonal().sign()).T.float()
    return hidden + (hidden @ unit.weight.T + unit.bias - hidden @ rows.T) @ rows


def _blocks(model: nn.Module) -> list[str] | None:
    """Another way to find the blocks: of the outermost lists outside towers, the one with the most parameters."""
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1}
    outer = {n: m for n, m in lists.items() if not any(n.startswith(f"{other}.") for other in lists)}
    own = {n: m for n, m in outer.items() if not any(word in n for word in _TOWERS)}
    if not own:
        return None
    name = max(own, key=lambda key: sum(p.numel() for p in own[key].parameters()))
    return [f"{name}.{i}" for i in range(len(own[name]))]


def _texts() -> list[torch.Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return [torch.randint(3, 259, (length,), generator=numbers) for length in LENGTHS]


def _load(folder: Path) -> nn.Module:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def _logits(model: nn.Module, texts: list, side: str = "left", **more) -> torch.Tensor:
    """(B, K, V) at the last tokens of each row."""
    inputs = _batch(model, texts, side)
    logits = model(**inputs, **_without_cache(model), **more).logits.float()
    width = logits.shape[1]
    ends = [width if side == "left" else len(text) for text in texts]
    return torch.stack([logits[i, end - COMPARED : end] for i, end in enumerate(ends)])


def _batch(model: nn.Module, texts: list, side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for i, text in enumerate(texts):
        place = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[i, place], mask[i, place] = text, 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if _takes(model, "position_ids"):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def _takes(model: nn.Module, what: str) -> bool:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    parameters = inspect.signature(inner.forward).parameters
    return what in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _without_cache(model: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if _takes(model, "use_cache") else {}


def _generated(model: nn.Module, texts: list, cached: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens (B, N) and the logits (B, N, V) that they were taken from."""
    inputs = _batch(model, texts, "left")
    inputs.pop("position_ids", None)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.generation_config = transformers.GenerationConfig()
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        use_cache=cached,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        eos_token_id=2,
    )
    output = model.generate(**inputs, generation_config=config)
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    return tokens, torch.stack([step.float() for step in output.logits], 1)


def _in_one_pass(model: nn.Module, texts: list, tokens: torch.Tensor) -> torch.Tensor:
    whole = [torch.cat([text, new[:-1]]) for text, new in zip(texts, tokens, strict=True)]
    inputs = _batch(model, whole, "left")
    return model(**inputs, **_without_cache(model), prompt_lengths=torch.tensor(LENGTHS)).logits[:, -NEW_TOKENS:]


def _compare(first: tuple, second: tuple) -> float:
    """Logits apart, up to the first token that was chosen otherwise: what follows is another text."""
    same = (first[0] == second[0]).long().cumprod(1)
    compared = torch.cat([torch.ones_like(same[:, :1]), same[:, :-1]], 1).bool()
    return _apart(first[1][compared], second[1][compared])


def _reloaded(folder: Path, model: PeftModel, texts: list) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        return _logits(PeftModel.from_pretrained(_load(folder), place).eval(), texts)


def _apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def _tried(compute: Callable[[], object]) -> object:
    try:
        return compute()
    except Exception as error:
        return f"{in_words(error)} ({' < '.join(frames(error))})"
