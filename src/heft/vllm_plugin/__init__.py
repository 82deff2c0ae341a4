"""HEFT adapters in vLLM: the entry point `vllm.general_plugins` of this package; docs/serving.md has the commands.

vLLM's own LoRA serves the coarse stage. The fine stage is one custom operation behind each decoder layer
(heft.vllm_plugin.layers), which adds to every token what the adapter of its request adds to it
(heft.vllm_plugin.edits). Which tokens those are is told before each pass (heft.vllm_plugin.tokens), and so is the
prefix cache, whose blocks carry the edits of their tokens in their hash (heft.vllm_plugin.blocks).

Nothing else of heft imports this package, and of it only `hooks`, `loading`, `passes` and `layers` import vLLM. It
needs neither PEFT nor transformers.
"""


def register() -> None:
    """What vLLM calls in each of its processes; calling it again changes nothing."""
    from heft.vllm_plugin.hooks import install

    install()
