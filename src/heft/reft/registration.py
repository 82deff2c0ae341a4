"""Registers ReFT with PEFT, which keeps its methods in a closed enum."""

from peft.utils import PeftType, register_peft_method

from heft.reft.builtin_bases import let_peft_find_built_in_bases
from heft.reft.config import ReftConfig
from heft.reft.model import ReftModel


def register() -> None:
    """Add REFT to PEFT's enum of methods and register its classes there. Doing it twice does nothing."""
    if "REFT" in PeftType.__members__:
        return
    member = str.__new__(PeftType, "REFT")
    member._name_ = member._value_ = "REFT"
    PeftType._member_map_["REFT"] = PeftType._value2member_map_["REFT"] = member
    PeftType._member_names_.append("REFT")
    type.__setattr__(PeftType, "REFT", member)
    register_peft_method(name="reft", config_cls=ReftConfig, model_cls=ReftModel, prefix="reft_")
    let_peft_find_built_in_bases()
