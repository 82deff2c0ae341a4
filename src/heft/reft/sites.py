"""Where a model's decoder, its blocks, and their attentions and MLPs are."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

CHILDREN = {
    "attention": (
        *("self_attn", "attn", "attention", "self_attention", "mixer"),
        *("linear_attn", "mamba", "conv", "temporal_block", "self_att", "multi_head_attention", "rel_attn"),
        *("norm_attn_norm.attn", "mlstm_layer"),
    ),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe", "mlp_block", "ff", "moe", "shared_mlp", "mixer"),
}
"""Names of a block's attention, or of the state-space, convolution or recurrent layer in its place, and of its MLP, or
of the experts in its place."""
_SUMMED = ("block_sparse_moe", "shared_mlp")
"""Where a block has both, its MLP is their sum, which no module gives."""
_MLP_MIXERS = ("mlp", "moe")
"""Values of Nemotron-H's `block_type` where a block's only module, `mixer`, is an MLP."""


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model between its ids and its head, without its towers for images or sound.

    transformers' `get_decoder` looks a name up, which in some classes is that of the head or of nothing.
    """
    body = model.get_decoder()
    if not isinstance(body, PreTrainedModel):
        body = model.base_model
    if body is model:
        text = type(model.config.get_text_config())
        within = (module for _, module in body.named_modules() if module is not body)
        return next((m for m in within if isinstance(m, PreTrainedModel) and isinstance(m.config, text)), body)
    return body


def block_names(model: PreTrainedModel) -> list[str]:
    """Names of the model's transformer blocks in order, such as `model.layers.0`.

    They stand in one list in the decoder; a vision or audio tower in it is a model of its own and left aside.

    Raises:
        ValueError: no such list, or several, none of which has as many modules as the model has layers.
    """
    body = decoder_of(model)
    lists = _own_lists(body)
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    fitting = [name for name, module in lists.items() if len(module) == count] or list(lists)
    if len(fitting) != 1:
        found = ", ".join(f"{name} ({len(lists[name])})" for name in fitting) or "none"
        raise ValueError(
            f"{type(model).__name__}: found no list of {count} blocks to edit (lists of modules: {found}); ReFT needs a"
            " decoder whose blocks stand in one ModuleList; train LoRA alone on this model"
        )
    start = next(name for name, module in model.named_modules() if module is lists[fitting[0]])
    return [f"{start}.{i}" for i in range(len(lists[fitting[0]]))]


def _own_lists(body: nn.Module) -> dict[str, nn.ModuleList]:
    """The outermost lists of modules of a decoder, without those of other models within it."""
    found: dict[str, nn.ModuleList] = {}
    others = [name for name, module in body.named_modules() if name and isinstance(module, PreTrainedModel)]
    for name, module in body.named_modules():
        within = any(name.startswith(f"{outer}.") for outer in (*found, *others))
        if isinstance(module, nn.ModuleList) and not within:
            found[name] = module
    return found


def site_names(model: PreTrainedModel, layers: str | list[int], site: str) -> list[str]:
    """Full names of the modules whose outputs are edited.

    Args:
        model: the base model, with or without other adapters.
        layers: "all" (every block that has the site) or layer numbers, negative ones counted from the end.
        site: "block", "attention" or "mlp".

    Raises:
        ValueError: a layer that the model does not have, or a block without such a child (its children are named).
    """
    blocks = block_names(model)
    count = len(blocks)
    if layers == "all":
        names = [name for block in blocks if (name := _site_of_block(model, block, site)) is not None]
        if not names:
            raise ValueError(_no_site(model, blocks[0], site))
        return names
    bad = [i for i in layers if not -count <= i < count]
    if bad:
        there_are = f"{count} layers, 0 to {count - 1} (or -{count} to -1)"
        raise ValueError(f"layers {bad} do not exist: this model has {there_are}")
    numbers = sorted({i % count for i in layers})
    if len(numbers) != len(layers):
        raise ValueError(f"layers {layers} name a layer twice: this model has {count} layers, so -1 is {count - 1}")
    names = [_site_of_block(model, blocks[i], site) for i in numbers]
    if None in names:
        raise ValueError(_no_site(model, blocks[numbers[names.index(None)]], site))
    return names


def blocks_without(model: PreTrainedModel, names: Sequence[str]) -> list[int]:
    """Numbers of the blocks in which none of these modules stands."""
    blocks = enumerate(block_names(model))
    return [i for i, block in blocks if not any(f"{name}.".startswith(f"{block}.") for name in names)]


def _site_of_block(model: nn.Module, block_name: str, site: str) -> str | None:
    if site == "block":
        return block_name
    block = model.get_submodule(block_name)
    modules = {name for name, module in block.named_modules() if not isinstance(module, nn.ModuleList | nn.ModuleDict)}
    is_mlp = getattr(block, "block_type", None) in _MLP_MIXERS
    if site == "mlp" and modules.issuperset(_SUMMED):
        return None
    for child in CHILDREN[site]:
        if child in modules and (child != "mixer" or is_mlp == (site == "mlp")):
            return f"{block_name}.{child}"
    return None


def _no_site(model: nn.Module, block_name: str, site: str) -> str:
    children = sorted(dict(model.get_submodule(block_name).named_children()))
    return f"{block_name} has no {site} among its modules {children}; use site: block"
