"""The options of commands that do runs on Ray."""

from heft.cluster.connection import RayOptions
from heft.errors import HeftError


def ray_options(
    address: str | None, gpus_per_run: float | None, cpus_per_run: int | None, runs_at_once: int | None
) -> RayOptions | None:
    """How runs are done on Ray; None where they are done in this process.

    Raises:
        HeftError: they cannot be done so, or what is given is about Ray, which is not asked for.
    """
    if address is not None:
        return RayOptions(address, gpus_per_run, 1 if cpus_per_run is None else cpus_per_run, runs_at_once)
    given = {"--gpus-per-run": gpus_per_run, "--cpus-per-run": cpus_per_run, "--runs-at-once": runs_at_once}
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise HeftError(
            f"{' and '.join(names)}: these are for runs on Ray; give --ray ADDRESS too, such as --ray local"
        )
    return None
