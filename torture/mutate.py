"""Inputs that get past a parser: a value, a key or a line of a valid one changed, and the rest kept."""

import json
import random
import struct
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**40, -(10**20), 0.5, -0.0, 1e300, 1e-300, 5e-324,
    "", " ", "x", "..", "../x", "/etc/passwd", "a/b", "a\\b", "x\x00", "\x1b[2J", "\u202e", "\u2028", "é", "😀",
    "x" * 300,
    "(a|a)*b", ".*", "%s", "{0}", "{{x}}", "$HOME", "~nobody/x", "random:tiny-llama", "embedded:x", "hub", "null",
    "NaN",
    [], {}, [[]], [{}], {"": None}, [None], ["x", "x"], [0, -1], {"a": {"b": {"c": []}}}, "l7", "f1+l1", "all", "١",
]  # fmt: skip
TEXTS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400, b"-0", b"\\ud800", b"\xff", b"\x00", b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"[" * 50, b"{" * 50, b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"---\n", b"...\n", b"? ", b"- ",
    b": ",
    b"|\n", b">\n", b"'", b'"', b"#", b"%YAML 1.1\n", b"\t", b"\r", b"\xef\xbb\xbf", b"null", b"true", b"0x1F", b"0o17",
    b".inf",
    b".nan", b"1_000", b"=", b".", b"..", b",", b"]", b"}",
]  # fmt: skip
KEYS = [
    "",
    "name",
    "method",
    "stages",
    "task",
    "__class__",
    "__metadata__",
    "id",
    "shape",
    "dtype",
    "format",
    "x\x00",
    "é",
]


def mutate(data: bytes, most: int, rng: random.Random, kind: str) -> bytes | None:
    """A changed input that a parser is likely to take; None where there is no such way to change this one."""
    head, body = (data[:1], data[1:]) if kind in ("rows", "run") else (b"", data)
    if kind == "safetensors":
        changed = _weights(body, rng)
    elif body.lstrip()[:1] in (b"{", b"["):
        changed = _lines(body, rng)
    else:
        changed = _yaml(body, rng)
    if changed is None or len(head) + len(changed) > most:
        return None
    return head + changed


def _lines(data: bytes, rng: random.Random) -> bytes | None:
    """Change one line of JSON Lines, of which a JSON file is the case of one."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    try:
        value = json.loads(data) if len(lines) == 1 else json.loads(lines[number])
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _changed(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:  # what no value can be made into
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(TEXTS) + text[place:]
    lines[number] = text
    if rng.random() < 0.1:
        lines.insert(number, text)
    return b"\n".join(lines)


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one of its parts, chosen evenly over the depth, replaced, removed, doubled or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        action = rng.random()
        if action < 0.7:
            return value | {key: _changed(value[key], rng)}
        rest = {k: v for k, v in value.items() if k != key}
        if action < 0.8:
            return rest
        return rest | {rng.choice([*KEYS, key + "x", *map(str, value)]): value[key]}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        action = rng.random()
        if action < 0.7:
            return [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
        return value[:place] + value[place + 1 :] if action < 0.85 else [*value, value[place]]
    if rng.random() < 0.15:
        return rng.choice(([value], {"x": value}, str(value), [value] * 3))
    if type(value) in (int, float) and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 1000, float(value) if abs(value) < 1e300 else 0))
    return rng.choice(NASTY)


def _yaml(data: bytes, rng: random.Random) -> bytes | None:
    """Change one line: its value, its indentation, its place; or put something that YAML has a meaning for in it."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    line = lines[number]
    key, colon, _ = line.partition(b":")
    action = rng.randrange(7)
    if action <= 1 and colon:
        lines[number] = key + b": " + json.dumps(rng.choice(NASTY), ensure_ascii=False).encode()
    elif action == 2:
        place = rng.randrange(len(line) + 1)
        lines[number] = line[:place] + rng.choice(TEXTS) + line[place:]
    elif action == 3:
        lines[number] = rng.choice((b"  " + line, line[1:], b"- " + line))
    elif action == 4:
        lines.insert(rng.randrange(len(lines) + 1), line)
    elif action == 5:
        del lines[number]
    else:
        parts = line.replace(b",", b" , ").replace(b"{", b" { ").split(b" ")
        place = rng.randrange(len(parts))
        parts[place] = rng.choice((b"", json.dumps(rng.choice(NASTY)).encode(), rng.choice(TEXTS), parts[0]))
        lines[number] = b" ".join(parts)
    return b"\n".join(lines)


def _weights(data: bytes, rng: random.Random) -> bytes | None:
    """Change the header of a safetensors file, and mostly keep its length true."""
    if len(data) < 8:
        return None
    length = struct.unpack("<Q", data[:8])[0]
    changed = _lines(data[8 : 8 + length], rng) if length <= len(data) - 8 else None
    if changed is None:
        return None
    told = len(changed) if rng.random() < 0.9 else rng.choice((0, 1, length, 2**63, 2**64 - 1, len(changed) + 1))
    rest = data[8 + length :]
    if rng.random() < 0.2:
        rest = rng.choice((b"", rest + b"x", rest[:-1], rest * 2))
    return struct.pack("<Q", told) + changed + rest
