"""FLOPs of a model's matrix products, each counted where it stands and with the gradients that it needs.

A product of an m×k by a k×n matrix is 2mkn FLOPs. Its backward pass is as much again for each factor that requires a
gradient: for a weight matrix of N numbers, 2N per token forward, 2N backward where the input requires one (something
below it trains), 2N where the weight itself trains. One forward pass on the meta device, which has shapes and no
numbers, shows which do, and what autograd would save for the backward pass (heft.costs.recorder). Elementwise work is
not counted.
"""

import inspect
from contextlib import nullcontext
from itertools import product
from unittest.mock import patch

import torch
from torch import nn
from transformers import DynamicCache

from heft.costs.amounts import ModelCosts
from heft.costs.recorder import Recorder, never_unpacked
from heft.errors import HeftError
from heft.models.forward import logits_of
from heft.models.prefix_states import keeps_plain_keys
from heft.reft.sites import decoder_of

_PRIMES = (61, 59, 53, 47, 43, 41, 37, 31, 29)
_PRIMES_OF_CHUNKS = (251, 241, 239, 233, 229, 227, 223, *_PRIMES)
"""Tokens of the pass that is looked at: the first that divides no dimension of the model, so that none is taken for
tokens, nor for the pairs of a token and an expert. They are just below the chunks of 64 or, where the config speaks of
chunks, up to 256 tokens that recurrent layers pad to."""


class Uncountable(HeftError):
    """A model that does not run on the meta device."""


def model_costs(model: nn.Module, lower_layers: int = 0) -> ModelCosts:
    """Count a model on the meta device, with adapters attached and what trains marked (see heft.costs.skeleton).

    It cannot run afterwards. `lower_layers` of the lowest layers are also counted separately.

    Raises:
        Uncountable: the model does not run without weights.
    """
    tokens, faults = _tokens_unlike(model), []
    for keeps, by_embeddings in product((True, False), repeat=2):
        recorder = Recorder(model, lower_layers, tokens)
        try:
            cache = _run(model, recorder, tokens, by_embeddings, keeps)
        except Exception as error:  # a model that runs with weights need not run without: it may raise anything
            faults.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        finally:
            recorder.remove()
        recorder.costs.kv_bytes = _bytes_per_token(cache)
        return recorder.costs
    raise Uncountable(faults[1])


def _run(model: nn.Module, recorder: Recorder, tokens: int, by_embeddings: bool, keeps: bool) -> DynamicCache:
    """One forward pass under the recorder; the cache that it filled, if it `keeps` one and takes one of this kind."""
    config = model.config.get_text_config()
    cache = DynamicCache() if keeps_plain_keys(model) else DynamicCache(config=config)
    takes_cache = keeps and "past_key_values" in inspect.signature(decoder_of(model).forward).parameters
    call: dict = {"past_key_values": cache, "use_cache": True} if takes_cache else {"use_cache": False}
    if by_embeddings:
        size = model.get_input_embeddings().weight.shape[1]
        call["inputs_embeds"] = torch.zeros(1, tokens, size, device="meta", dtype=model.dtype)
    else:
        call["input_ids"] = torch.zeros(1, tokens, device="meta", dtype=torch.long)
    call["prompt_lengths"] = torch.full((1,), tokens, device="meta")
    counted = torch.autograd.graph.saved_tensors_hooks(recorder.save, never_unpacked)
    without_autocast = patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext())  # meta tensors have none
    recorder.follows(call.get("inputs_embeds", call.get("input_ids")))
    with without_autocast, torch.enable_grad(), recorder, recorder.products, counted:
        logits_of(model, 1, **call)
    return cache


def _bytes_per_token(cache: DynamicCache) -> int:
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return sum(t.numel() // t.shape[2] * t.element_size() for t in tensors)


def _tokens_unlike(model: nn.Module) -> int:
    sizes = {size for p in model.parameters() for size in p.shape}
    has_chunks = any("chunk_size" in key for key in model.config.get_text_config().to_dict())
    primes = _PRIMES_OF_CHUNKS if has_chunks else _PRIMES
    return next((prime for prime in primes if not any(size % prime == 0 for size in sizes)), primes[0])
