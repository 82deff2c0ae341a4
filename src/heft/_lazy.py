"""Attributes that are imported when first used, so that `import heft` and `heft --help` need no torch."""

from importlib import import_module


def lazy_attributes(package: str, table: dict[str, str]):
    """Return a module-level `__getattr__` and `__dir__` for `package`.

    Args:
        package: the package's `__name__`.
        table: attribute name → the module that defines it.
    """

    def load(name: str):
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(table[name]), name)

    return load, lambda: sorted(table)
