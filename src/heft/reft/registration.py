"""Makes ReFT known to PEFT, which keeps its methods in a closed enum."""

import importlib.abc
import sys


def register() -> None:
    """Add REFT to PEFT's enum of methods and register its classes there. Doing it twice does nothing."""
    from peft.utils import PeftType, register_peft_method

    if "REFT" in PeftType.__members__:
        return
    member = str.__new__(PeftType, "REFT")
    member._name_ = member._value_ = "REFT"
    PeftType._member_map_["REFT"] = PeftType._value2member_map_["REFT"] = member
    PeftType._member_names_.append("REFT")
    type.__setattr__(PeftType, "REFT", member)

    from heft.reft.config import ReftConfig
    from heft.reft.model import ReftModel

    register_peft_method(name="reft", config_cls=ReftConfig, model_cls=ReftModel, prefix="reft_")

    from heft.reft.builtin_bases import let_peft_find_built_in_bases

    let_peft_find_built_in_bases()


class _AfterPeft(importlib.abc.MetaPathFinder):
    """Registers ReFT as soon as somebody imports PEFT, so that `import heft` need not import it (and torch) itself.

    A module of heft.reft may be what imports PEFT first; its classes exist only when it is done, so registration waits
    until the outermost of these imports has ended. Merely looking PEFT up (`importlib.util.find_spec`) changes nothing.
    """

    def __init__(self):
        self._depth = 0

    def find_spec(self, name, path=None, target=None):
        if name != "peft" and not name.startswith("heft.reft."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._then_register(spec.loader.exec_module)
        return spec

    def _then_register(self, exec_module):
        def run(module):
            self._depth += 1
            try:
                exec_module(module)
            finally:
                self._depth -= 1
            if self._depth == 0 and "peft" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        return run


def register_when_peft_is_imported() -> None:
    """Register now if PEFT is loaded, else at the moment when it is."""
    if "peft" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterPeft())
