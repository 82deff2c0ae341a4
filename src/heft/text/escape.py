"""Text of strangers on a screen: names, rows, prompts and what a model says, with nothing in it that a screen obeys."""

import re

_OBEYED = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for line feed and tab: escape sequences begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of writing, so that a name reads as another
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line ends that few programs know; marks that are not seen
    "\U000e0000-\U000e007f"  # letters that are not seen
    "\ud800-\udfff"  # halves of surrogate pairs, which cannot be written
    "]"
)


def escape_controls(text: str) -> str:
    r"""The same text with control characters and marks of writing direction spelt out, such as `\u001b`.

    Line feeds and tabs stay. Inside JSON it stays JSON of the same value.
    """
    return _OBEYED.sub(lambda found: _spelt(found[0]), text)


def spelt_out(error: UnicodeError) -> tuple[str, int]:
    r"""For `codecs.register_error`: characters that an encoding lacks, spelt out likewise."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelt, error.object[error.start : error.end])), error.end


def _spelt(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
