"""`heft doctor`: what of this machine heft depends on, each with a verdict, and what to do where it is bad.

Standard library only, so that it runs where torch or anything else is broken or missing: `python -m heft.doctor` needs
not even the command line's own packages.
"""

from collections.abc import Callable

from heft.doctor.extras import check_extras
from heft.doctor.hub import check_hub
from heft.doctor.line import Line, fault
from heft.doctor.machine import check_device, check_memory, check_threads
from heft.doctor.places import check_caches, check_places
from heft.doctor.probing import Facts, probe
from heft.doctor.versions import check_versions, required_modules

__all__ = ["Line", "examine"]


def examine(online: bool = False) -> list[Line]:
    """Look at this machine.

    Args:
        online: whether the Hub is asked if it can be reached; without it nothing is sent anywhere.

    Returns:
        What was seen, topic after topic; a look that itself ends in an error is a fault like any other.
    """
    facts = probe(required_modules())
    looks: dict[str, Callable[[Facts], list[Line]]] = {
        "versions": check_versions,
        "device": check_device,
        "threads": check_threads,
        "memory": lambda facts: check_memory(),
        "disk": lambda facts: check_places(),
        "cache": lambda facts: check_caches(),
        "hub": lambda facts: check_hub(online),
        "extras": check_extras,
    }
    lines = []
    for topic, look in looks.items():
        try:
            lines += look(facts)
        except Exception as error:  # the others may still say what is wrong
            lines.append(
                fault(topic, f"could not be looked at: {type(error).__name__}: {error}", "report this to heft")
            )
    return lines
