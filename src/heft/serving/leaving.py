"""Adapter directories that are taken off while a server runs: each once no text of its own runs."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future

from heft.errors import HeftError
from heft.serving.catalog import Catalog, Served
from heft.serving.prefixes import Prefixes


class Leaving:
    """What is to be taken off, with who waits for that. The engine's thread alone uses it."""

    def __init__(self, catalog: Catalog, prefixes: Prefixes):
        self._catalog, self._prefixes = catalog, prefixes
        self._waiting: dict[str, Future] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, name: str, done: Future) -> set[str]:
        """Refuse a directory's models from now on; their names.

        Raises:
            HeftError: it cannot be taken off, or is being taken off already.
        """
        self._catalog.require_unloadable(name)
        if name in self._waiting:
            raise HeftError(f"{name!r} is being unloaded already")
        self._waiting[name] = done
        return self._models(name)

    def takes(self, served: Served) -> bool:
        """Whether a request for this may begin: its adapters may have gone while it was on its way."""
        is_leaving = any(served.name in self._models(name) for name in self._waiting)
        return self._catalog.find(served.name) is served and not is_leaving

    def free(self, running: Collection[str]) -> Iterator[tuple[Callable[[], None], Future]]:
        """What takes each directory off that none of the models which run is of, and who waits for it."""
        for name in [name for name in self._waiting if not self._models(name) & set(running)]:
            yield (lambda name=name: self._take_off(name)), self._waiting.pop(name)

    def fail_all(self, error: Exception) -> None:
        """Tell all who wait that it will not be done."""
        for done in self._waiting.values():
            done.set_exception(error)
        self._waiting.clear()

    def _models(self, name: str) -> set[str]:
        return {each.name for each in self._catalog.served_of(name)}

    def _take_off(self, name: str) -> None:
        adapters = {adapter for each in self._catalog.served_of(name) for adapter in each.adapters}
        self._catalog.unload(name)
        self._prefixes.forget(tuple(adapters))
