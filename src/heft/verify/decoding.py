"""Generated tokens with a cache, without one, and in one pass over the whole text.

Shapes: B rows, T tokens of the padded prompts, N generated tokens, V vocabulary.
"""

from typing import Any

import torch

from heft.adapters.attach import activated
from heft.data.encode import left_pad
from heft.data.padding import padding_matters
from heft.evaluation.generation import greedy
from heft.models.forward import logits_of
from heft.verify.finding import Finding, judged, most
from heft.verify.logits import apart
from heft.verify.subject import AdapterUnderTest

NEW_TOKENS = 6


@torch.inference_mode()
def check_decoding(subject: AdapterUnderTest) -> list[Finding]:
    """Greedy decoding: the logits of each step against one forward pass that knows where the prompts end."""
    steps = f"{NEW_TOKENS} greedy steps of {len(subject.probe.rows)} rows"
    uncached, one_pass, counted = _differences(subject)
    found = (
        ("cached against uncached decoding", f"{steps}, with a cache against without", uncached, counted),
        (
            "decoding against one pass",
            f"{steps} with a cache, against one forward pass over prompts and generated tokens",
            one_pass,
            {},
        ),
    )
    of_base = (0.0, 0.0)
    if not most((uncached, one_pass)) <= subject.rounding.logits:
        with activated(subject.model, []):
            of_base = _differences(subject)[:2]
    return [
        judged(check, compared, "logits", difference, *subject.bound(base), **counts)
        for (check, compared, difference, counts), base in zip(found, of_base, strict=True)
    ]


def _differences(subject: AdapterUnderTest) -> tuple[float, float, dict[str, Any]]:
    """How far decoding with a cache is from decoding without one, and from one pass; and how many tokens differ.

    Where two ways choose other tokens, what follows is another text; rows are compared up to there.
    """
    prompts = [row.prompt for row in subject.probe.rows]
    cached_BN, cached_BNV = _decoded(subject, prompts, use_cache=True)
    plain_BN, plain_BNV = _decoded(subject, prompts, use_cache=False)
    same_BN = (cached_BN == plain_BN).long().cumprod(1)
    compared_BN = torch.cat([torch.ones_like(same_BN[:, :1]), same_BN[:, :-1]], 1).bool()
    uncached = apart(subject.model, cached_BNV[compared_BN], plain_BNV[compared_BN])
    one_pass = apart(subject.model, cached_BNV, _in_one_pass(subject, prompts, cached_BN))
    differ = int((cached_BN != plain_BN).sum())
    return uncached, one_pass, {"differ": differ, "of": cached_BN.numel(), "things": "tokens"}


def _decoded(subject: AdapterUnderTest, prompts: list, use_cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, N) and the logits (B, N, V) that they were taken from, on the CPU."""
    found = [_decoded_together(subject, some, use_cache) for some in _batches(subject, prompts)]
    tokens, logits = zip(*found, strict=True)
    return torch.cat(tokens), torch.cat(logits)


def _batches(subject: AdapterUnderTest, prompts: list) -> list[list]:
    """As heft decodes them: together, or one by one where padding matters."""
    alone = padding_matters(subject.model, subject.pad_id, max(map(len, prompts)) + NEW_TOKENS)
    return [[prompt] for prompt in prompts] if alone else [prompts]


def _decoded_together(subject: AdapterUnderTest, prompts: list, use_cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = {key: value.to(subject.model.device) for key, value in left_pad(prompts, subject.pad_id).items()}
    inputs.pop("position_ids")  # generate counts them from the mask itself
    options = {"use_cache": use_cache, "output_logits": True, "return_dict_in_generate": True}
    # an end token would leave nothing to compare
    with greedy(subject.model, subject.tokenizer, NEW_TOKENS, min_new_tokens=NEW_TOKENS, **options) as config:
        output = subject.model.generate(**inputs, generation_config=config)
    tokens_BN = output.sequences[:, inputs["input_ids"].shape[1] :]
    return tokens_BN.cpu(), torch.stack([step.float().cpu() for step in output.logits], 1)


def _in_one_pass(subject: AdapterUnderTest, prompts: list, tokens_BN: torch.Tensor) -> torch.Tensor:
    """Logits (B, N, V) that predict the tokens, from one pass over all of the text."""
    batches = _batches(subject, prompts)
    parts = zip(batches, tokens_BN.split([len(batch) for batch in batches]), strict=True)
    return torch.cat([_pass_over(subject, batch, tokens) for batch, tokens in parts])


def _pass_over(subject: AdapterUnderTest, prompts: list, tokens_BN: torch.Tensor) -> torch.Tensor:
    texts = [(*prompt, *tokens[:-1]) for prompt, tokens in zip(prompts, tokens_BN.tolist(), strict=True)]
    inputs = {key: value.to(subject.model.device) for key, value in left_pad(texts, subject.pad_id).items()}
    inputs["prompt_lengths"] = torch.tensor([len(prompt) for prompt in prompts], device=subject.model.device)
    return logits_of(subject.model, tokens_BN.shape[1], **inputs, use_cache=False).float().cpu()
