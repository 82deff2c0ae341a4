"""Where a model's blocks, attentions and MLPs are."""

from torch import nn

CHILDREN = {
    "attention": ("self_attn", "attn", "attention", "self_attention", "mixer"),
    "mlp": ("mlp", "feed_forward", "ffn"),
}


def block_names(model: nn.Module) -> list[str]:
    """Names of the model's transformer blocks in order, such as `model.layers.0`.

    Raises:
        ValueError: no list of as many modules as the model has layers.
    """
    config = model.config.get_text_config()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return [f"{name}.{i}" if name else str(i) for i in range(len(module))]
    raise ValueError(
        f"{type(model).__name__}: found no list of {config.num_hidden_layers} blocks to edit; ReFT needs a decoder"
        " whose blocks stand in one ModuleList"
    )


def site_names(model: nn.Module, layers: str | list[int], site: str) -> list[str]:
    """Full names of the modules whose outputs are edited.

    Args:
        model: the base model, with or without other adapters.
        layers: "all" or layer numbers, negative ones counted from the end.
        site: "block", "attention" or "mlp".

    Raises:
        ValueError: a layer that the model does not have, or a block without such a child (its children are named).
    """
    blocks = block_names(model)
    count = len(blocks)
    wanted = list(range(count)) if layers == "all" else layers
    bad = [i for i in wanted if not -count <= i < count]
    if bad:
        there_are = f"{count} layers, 0 to {count - 1} (or -{count} to -1)"
        raise ValueError(f"layers {bad} do not exist: this model has {there_are}")
    numbers = sorted({i % count for i in wanted})
    if len(numbers) != len(wanted):
        raise ValueError(f"layers {wanted} name a layer twice: this model has {count} layers, so -1 is {count - 1}")
    return [_site_of_block(model, blocks[i], site) for i in numbers]


def _site_of_block(model: nn.Module, block_name: str, site: str) -> str:
    if site == "block":
        return block_name
    children = dict(model.get_submodule(block_name).named_children())
    for child in CHILDREN[site]:
        if child in children:
            return f"{block_name}.{child}"
    raise ValueError(f"{block_name} has no {site} among its modules {sorted(children)}")
