"""New tokens: embeddings of a few tokens that a LoRA adapter trains beside its updates (PEFT: trainable_token_indices).

Their rows are replaced in the input embedding, and in the output head where that is tied to it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.lora import has_tied_head
from heft.errors import HeftError


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], embeddings: int) -> list[int]:
    """The id of each text, which is one token, or one in the vocabulary's own spelling.

    `embeddings` is how many rows the model's input embedding has.

    Raises:
        HeftError: a text is not a single token, two are the same token, or the model has no embedding for it; all are
            named.
    """
    ids, faults = [], []
    for text in texts:
        split = tokenizer(text, add_special_tokens=False)["input_ids"]
        token = split[0] if len(split) == 1 else tokenizer.get_vocab().get(text)
        if token is None or token == tokenizer.unk_token_id != tokenizer.get_vocab().get(text):
            parts = ", ".join(repr(part) for part in tokenizer.convert_ids_to_tokens(split))
            faults.append(
                f"{text!r} is not a single token of this model (it is {parts or 'nothing'}); add it to a copy of the"
                " model: tokenizer.add_tokens, model.resize_token_embeddings, save both"
            )
        elif token >= embeddings:
            faults.append(
                f"{text!r} has id {token:,} and the model has embeddings for 0 to {embeddings - 1:,}: resize it"
                " (model.resize_token_embeddings) and save it with its tokenizer"
            )
        else:
            ids.append(token)
    twice = [token for token, count in Counter(ids).items() if count > 1]
    if twice:
        faults.append(f"entries are the same token: {', '.join(map(repr, tokenizer.convert_ids_to_tokens(twice)))}")
    if faults:
        raise HeftError("; ".join(f"trainable_tokens: {fault}" for fault in faults))
    return ids


def bias_fault(model: PreTrainedModel) -> str | None:
    """Why no tokens of a model can be trained, in words; None where they can.

    Where the output head is tied to the input embedding, PEFT computes it as a product with the weights alone.
    """
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is None or not has_tied_head(model):
        return None
    return (
        "trainable_tokens: the output head of this model shares its weights with the input embedding and has a bias,"
        " which PEFT leaves out where it trains tokens, so that every logit would change; remove trainable_tokens"
    )


def show_tokens_of(model: nn.Module, names: Sequence[str]) -> None:
    """Let an embedding's `weight` be the one with the tokens of active adapters, of which `names` are all.

    The layer within the wrapper knows which of them count; the wrapper has to have one of them, any one.
    """
    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper):
            own = [name for name in names if name in module.token_adapter.trainable_tokens_delta]
            if own:
                module.set_adapter(own[0])


@contextmanager
def tokens_of(model: nn.Module, name: str) -> Iterator[None]:
    """Only an adapter's own tokens are read or written meanwhile: PEFT takes every wrapper to have those of each."""
    others = [
        module
        for module in model.modules()
        if isinstance(module, TrainableTokensWrapper) and name not in module.token_adapter.trainable_tokens_delta
    ]
    with ExitStack() as hidden:
        for module in others:
            for method in ("adapter_state_dict", "adapter_state_dict_load_map"):
                hidden.enter_context(patch.object(module, method, lambda *args: {}))
        yield
