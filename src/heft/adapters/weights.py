"""A weights file by its header: what it holds, whether it is whole, and whether that is what an adapter needs.

All of it comes before the first tensor is read, so a file takes no more memory than the adapter that it fits. Format
(safetensors): 8 bytes with the header's length, little-endian; the header, a JSON object; the tensors, without gaps.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.errors import HeftError
from heft.storage.reading import FileFault, kind_of, open_file, parse_json

HEADER_LIMIT = 2**24
"""Bytes that the header of a weights file may have: a tensor takes some 150."""
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MOST_SHOWN = 10
_MOST_SIZE = 2**48
_MOST_CHARACTERS = 500


@dataclass(frozen=True)
class TensorHeader:
    """What a weights file says of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorHeader]:
    """What a safetensors file holds, from its header alone, which has to agree with the size of the file.

    Raises:
        HeftError: it is no such file, is cut off or has something over, or holds other numbers than floats.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > size - 8:
            raise FileFault(path, f"it has {size:,} bytes and is no safetensors file, or was cut off")
        if length > HEADER_LIMIT:
            raise FileFault(path, f"its header is larger than {HEADER_LIMIT:,} bytes")
        content = file.read(length)
    try:
        header = parse_json(content)
        if not isinstance(header, dict):
            raise ValueError(f"its header holds {kind_of(header)}")
        return _tensors(header, size - 8 - length)
    except ValueError as error:
        raise FileFault(path, f"{error}; it is no safetensors file that heft has written") from None


def _tensors(header: dict[str, Any], size: int) -> dict[str, TensorHeader]:
    """The tensors of a header, which fill `size` bytes; every fault is a ValueError."""
    found, parts = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                raise ValueError("its metadata are not texts")
            continue
        if len(name) > _MOST_CHARACTERS:
            raise ValueError(f"tensor {_shown(name)} has a name of {len(name):,} characters")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {_shown(name)} has not just dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            raise ValueError(f"tensor {_shown(name)} is of {_shown(dtype)}, expected one of {', '.join(_ITEM_BYTES)}")
        if not _are_sizes(shape, 8) or not _are_sizes(offsets, 2) or len(offsets) != 2:
            raise ValueError(f"tensor {_shown(name)} has a shape or a place that cannot be")
        if offsets[1] - offsets[0] != _ITEM_BYTES[dtype] * math.prod(shape):
            raise ValueError(f"tensor {_shown(name)} has another size than its shape")
        found[name] = TensorHeader(dtype, tuple(shape))
        parts.append(tuple(offsets))
    end = 0
    for start, stop in sorted(parts):
        if start != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = stop
    if end != size:
        raise ValueError(f"its tensors take {end:,} bytes and {size:,} are there")
    return found


def _are_sizes(value: Any, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(n) is int and 0 <= n < _MOST_SIZE for n in value)


def require_fit(
    path: Path, name: str, found: Mapping[str, TensorHeader], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """See that a weights file holds the tensors that an adapter has on its base, and no others.

    Raises:
        HeftError: tensors are missing, left over or of another shape; all are counted and the first named.
    """
    faults = [f"{key} is missing" for key in expected.keys() - found.keys()]
    faults += [f"{key[:200]} is left over" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        if expected[key] != found[key].shape:
            faults.append(f"{key} is {list(found[key].shape)}, expected {list(expected[key])}")
    if faults:
        shown = "\n  ".join(sorted(faults)[:_MOST_SHOWN])
        where = f"adapter {name!r} in {path.parent}"
        raise HeftError(f"{where} does not fit its base model ({len(faults)} tensors):\n  {shown}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
