"""A weights file by its header: what it holds, whether it is whole, and whether that is what an adapter needs.

All of it comes before the first tensor is read, so a file takes no more memory than the adapter that it fits.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from heft.errors import HeftError
from heft.storage.reading import FileFault, open_file

_DTYPES = ("F64", "F32", "F16", "BF16")
_MOST_SHOWN = 10


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors in a safetensors file, from its header, which the library holds against the file.

    Raises:
        HeftError: it is no such file, is cut off or too long, or holds other numbers than floats.
    """
    open_file(path).close()  # a pipe or a device is refused before the library would wait for it
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            dtypes = {name: tensor.get_dtype() for name, tensor in tensors.items()}
            shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
    except (SafetensorError, OSError) as error:
        reason = f"{str(error)[:200]}; it is not a safetensors file, or it was cut off or changed"
        raise FileFault(path, reason) from None
    other = next((name for name, dtype in dtypes.items() if dtype not in _DTYPES), None)
    if other is not None:
        raise FileFault(path, f"tensor {other[:80]!r} is {dtypes[other]}, expected one of {', '.join(_DTYPES)}")
    return shapes


def require_fit(
    path: Path, name: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that a weights file holds the tensors that an adapter has on its base, and no others.

    Raises:
        HeftError: tensors are missing, unexpected or of another shape; all are counted and the first named.
    """
    faults = [f"{key} is missing" for key in expected.keys() - found.keys()]
    faults += [f"{key[:200]} is not expected" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        if expected[key] != found[key]:
            faults.append(f"{key} is {list(found[key])}, expected {list(expected[key])}")
    if faults:
        shown = "\n  ".join(sorted(faults)[:_MOST_SHOWN])
        where = f"adapter {name!r} in {path.parent}"
        raise HeftError(f"{where} does not fit its base model ({len(faults)} tensors):\n  {shown}")
