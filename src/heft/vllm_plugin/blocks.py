"""What of a request's edits the prefix cache has to know: a block's hash carries the edits of its tokens.

vLLM's hash of a block has the adapter's name and path, the tokens, and the hash of the block before. Keys and values
of a token depend on the edits of the tokens up to it, and these depend on where the prompt ends. So a block's hash
carries which of its own tokens are edited: two blocks are shared exactly where tokens, adapter and edits up to their
end are the same. Without it a prompt and a longer one that begins with it would share blocks whose edits differ.
"""

from pathlib import Path
from typing import Any

from heft.adapters.safety import CONFIG
from heft.errors import HeftError
from heft.storage.reading import is_file
from heft.vllm_plugin.directory import Layout, find, read_layout
from heft.vllm_plugin.tokens import prompt_length

_known: dict[tuple[int, str], Layout | None] = {}
"""What each adapter was when it was loaded, by its number and path; None for those that are not heft's."""


def edit_keys(request: Any, start: int, end: int) -> list[tuple]:
    """What a block of a request's tokens `start` to `end` adds to its hash, where its adapter is a HEFT adapter.

    A directory that cannot be read shares nothing; what is wrong with it is said where its weights are loaded.
    """
    if request.lora_request is None:
        return []
    try:
        layout = layout_of(request.lora_request)
    except HeftError:
        return [("heft", request.request_id)]
    if layout is None:
        return []
    params = request.sampling_params
    prompt = prompt_length(request.num_prompt_tokens, None if params is None else params.extra_args)
    ranges = tuple(
        (number, first - start, last - start)
        for number, kind in enumerate(layout.kinds)
        for first, last in kind.ranges(prompt, start, end)
    )
    return [("heft", layout.digest, ranges)]


def layout_of(adapter: Any, anew: bool = False) -> Layout | None:
    """What the directory that vLLM names for an adapter held when it was loaded; None where it is not heft's.

    It counts though the directory was changed or removed since, as the weights in memory do.

    Args:
        anew: the adapter is loaded again, from what is there now.

    Raises:
        HeftError: the directory cannot be read or served.
    """
    key = adapter.lora_int_id, adapter.lora_path
    if anew or key not in _known:
        found = find(adapter.lora_path)
        if found is None and not is_file(Path(adapter.lora_path) / CONFIG):
            return None  # nothing is there yet
        _known[key] = None if found is None else read_layout(*found)
    return _known[key]
