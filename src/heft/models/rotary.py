"""Rotary positions that are scaled by the length of a pass (dynamic NTK): by that of each pass alone.

transformers keeps the scale of the longest pass so far until one comes that needs none, so that what a model makes of a
row would depend on the rows that ran before it, and would be another after a resume or in another process.
"""

from functools import partial

from torch import nn


def scale_each_pass_alone(model: nn.Module) -> None:
    """From here on the model's rotary positions are scaled as in a model that has computed nothing yet."""
    for module in model.modules():
        found = getattr(module, "rope_type", None)  # with one for each type of layer a dict
        prefixes = {f"{kind}_": each for kind, each in found.items()} if isinstance(found, dict) else {"": found}
        scaled = [prefix for prefix, each in prefixes.items() if isinstance(each, str) and "dynamic" in each]
        if scaled:
            module.register_forward_pre_hook(partial(_forget, scaled))


def _forget(prefixes: list[str], module: nn.Module, args: tuple) -> None:
    for prefix in prefixes:
        device = getattr(module, f"{prefix}inv_freq").device
        setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(device))
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
