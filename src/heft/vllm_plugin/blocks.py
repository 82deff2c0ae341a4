"""What of a request's edits the prefix cache has to know: a block's hash carries the edits of its tokens.

vLLM's hash of a block has the adapter's name and path, the tokens, and the hash of the block before. Keys and values
of a token depend on the edits of the tokens up to it, and these depend on where the prompt ends. So a block's hash
carries which of its own tokens are edited: two blocks are shared exactly where tokens, adapter and edits up to their
end are the same. Without it a prompt and a longer one that begins with it would share blocks whose edits differ.
"""

import os
from functools import lru_cache
from typing import Any

from heft.errors import HeftError
from heft.vllm_plugin.directory import Layout, find, read_layout
from heft.vllm_plugin.tokens import prompt_length


def edit_keys(request: Any, start: int, end: int) -> list[tuple]:
    """What a block of a request's tokens `start` to `end` adds to its hash, where its adapter is a HEFT adapter."""
    adapter = request.lora_request
    layout = None if adapter is None else layout_at(adapter.lora_path)
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


def layout_at(path: str) -> Layout | None:
    """What the adapter directory at a path holds now; None where it is none."""
    found = find(path)
    if found is None:
        return None
    directory, stage = found
    try:
        stat = os.stat(directory / "heft.json")
    except OSError as error:
        raise HeftError(f"{directory} is not there any more: {error.strerror}") from None
    return _read(str(directory), stage, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _read(directory: str, stage: str | None, changed: int, size: int) -> Layout:
    from pathlib import Path

    return read_layout(Path(directory), stage)
