"""Registers ReFT with PEFT, and lets PEFT's own loader find base models that are built into heft."""

from functools import wraps

from peft import AutoPeftModelForCausalLM, PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method
from transformers import AutoModelForCausalLM

from heft.builtin import EMBEDDED, TINY, embedded_path, tiny_llama
from heft.reft.config import ReftConfig
from heft.reft.model import ReftModel


def register() -> None:
    """Register ReFT's classes; doing it twice does nothing."""
    if add_method("reft", ReftConfig, ReftModel, "reft_"):
        _let_peft_find_built_in_bases()


def add_method(name: str, config: type[PeftConfig], model: type[BaseTuner], prefix: str) -> bool:
    """Add a method to PEFT's enum of them, which is closed, and register its classes, unless it is there already.

    Returns:
        whether it was added.
    """
    member_name = name.upper()
    if member_name in PeftType.__members__:
        return False
    member = str.__new__(PeftType, member_name)
    member._name_ = member._value_ = member_name
    PeftType._member_map_[member_name] = PeftType._value2member_map_[member_name] = member
    PeftType._member_names_.append(member_name)
    type.__setattr__(PeftType, member_name, member)
    register_peft_method(name=name, config_cls=config, model_cls=model, prefix=prefix)
    return True


def _let_peft_find_built_in_bases() -> None:
    """From here on `AutoPeftModelForCausalLM.from_pretrained` loads the bases that heft.builtin names."""
    plain = AutoPeftModelForCausalLM.from_pretrained.__func__

    @classmethod
    @wraps(plain)
    def from_pretrained(cls, pretrained_model_name_or_path, adapter_name="default", is_trainable=False, **kwargs):
        where = {"revision": kwargs.get("revision"), "token": kwargs.get("token")}
        name = PeftConfig.from_pretrained(pretrained_model_name_or_path, **where).base_model_name_or_path
        if name == TINY:
            base = tiny_llama().eval()
        elif name in EMBEDDED:
            own = ("config", "revision", "import_allowlist")  # not of transformers' `from_pretrained`
            options = {key: value for key, value in kwargs.items() if key not in own}
            base = AutoModelForCausalLM.from_pretrained(embedded_path(name), **options)
        else:
            return plain(cls, pretrained_model_name_or_path, adapter_name, is_trainable, **kwargs)
        return cls._target_peft_class.from_pretrained(base, pretrained_model_name_or_path, adapter_name, is_trainable)

    AutoPeftModelForCausalLM.from_pretrained = from_pretrained
