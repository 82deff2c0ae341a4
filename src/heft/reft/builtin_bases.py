"""PEFT's AutoPeftModelForCausalLM on an adapter whose base model is built into heft, and on no Hub."""

from functools import wraps

from heft.builtin import EMBEDDED, TINY, embedded_path, tiny_llama


def let_peft_find_built_in_bases() -> None:
    """From here on `AutoPeftModelForCausalLM.from_pretrained` loads the bases that heft.builtin names."""
    from peft import AutoPeftModelForCausalLM, PeftConfig

    plain = AutoPeftModelForCausalLM.from_pretrained.__func__

    @classmethod
    @wraps(plain)
    def from_pretrained(cls, pretrained_model_name_or_path, adapter_name="default", is_trainable=False, **kwargs):
        where = {"revision": kwargs.get("revision"), "token": kwargs.get("token")}
        config = PeftConfig.from_pretrained(pretrained_model_name_or_path, **where)
        name = config.base_model_name_or_path
        if name != TINY and name not in EMBEDDED:
            return plain(cls, pretrained_model_name_or_path, adapter_name, is_trainable, **kwargs)
        base = _built_in(name, kwargs)
        return cls._target_peft_class.from_pretrained(base, pretrained_model_name_or_path, adapter_name, is_trainable)

    AutoPeftModelForCausalLM.from_pretrained = from_pretrained


def _built_in(name: str, options: dict):
    """The base, with those options that transformers' `from_pretrained` takes."""
    from transformers import AutoModelForCausalLM

    if name == TINY:
        return tiny_llama().eval()
    own = ("config", "revision", "import_allowlist")
    return AutoModelForCausalLM.from_pretrained(
        embedded_path(name), **{key: value for key, value in options.items() if key not in own}
    )
