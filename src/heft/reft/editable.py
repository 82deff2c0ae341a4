"""Whether a model's hidden states can be edited at a site, found out before anything is trained."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from heft.reft.sites import site_names
from heft.reft.streams import Streams
from heft.reft.tracker import tracker_of

ROWS, TOKENS = 2, 7


def require_editable(model: nn.Module, layers: str | list[int] = "all", site: str = "block") -> bool:
    """Check in one small forward pass that a site's output has a hidden state for each token.

    Args:
        model: a causal language model, with or without adapters, on any device; on the meta device it costs nothing.
        layers: "all" or layer numbers.
        site: "block", "attention" or "mlp".

    Returns:
        Whether the pass ran; False where the model itself could not be run so (some cannot on the meta device), and
        nothing is known.

    Raises:
        ValueError: the site's hidden states cannot be edited, with their shape and what works instead; or the model
            has no such layers or site.
    """
    streams, faults = Streams.of(model.config), []

    def look(name: str, output) -> None:
        hidden = output[0] if isinstance(output, tuple | list) else output
        try:
            streams.places(hidden.shape, ROWS, TOKENS)
        except ValueError as error:
            faults.append(f"{name}: {error}")

    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, args, output, name=name: look(name, output))
        for name in site_names(model, layers, site)
    ]
    try:
        ran = runs_small_batch(model, stop=lambda: bool(faults))
    finally:
        for handle in handles:
            handle.remove()
    if faults:
        raise ValueError(faults[0])
    return ran


def runs_small_batch(model: nn.Module, stop: Callable[[], bool] = lambda: False) -> bool:
    """Whether a batch of `ROWS` times `TOKENS` runs through the model, for hooks that look at it.

    It is tried as ids and as embeddings, unless `stop` says that enough was seen.
    """
    return any(_runs(model, tokens) for tokens in _small_batches(model) if not stop())


def _small_batches(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """The same batch as ids and as embeddings: on the meta device some models run with only one of them."""
    like = next(model.parameters())
    yield {"input_ids": torch.ones(ROWS, TOKENS, dtype=torch.long, device=like.device)}
    width = model.config.get_text_config().hidden_size
    yield {"inputs_embeds": torch.zeros(ROWS, TOKENS, width, dtype=like.dtype, device=like.device)}


@torch.no_grad()
def _runs(model: nn.Module, tokens: dict[str, torch.Tensor]) -> bool:
    if tracker_of(model) is not None:
        tokens = {**tokens, "prompt_lengths": torch.full((ROWS,), TOKENS - 2)}
    try:
        model(**tokens, use_cache=True)  # with a cache transformers does not look whether rows are packed
    except Exception:  # whatever a model raises that cannot run on this device or with these few tokens
        return False
    return True
