"""One run in a process on some node. Nothing slow is imported before the environment is as it is to be."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.cluster.environment import environment_to_send, take_environment
from heft.cluster.jobs import Failure, Job, failure_of
from heft.cluster.news import Sending
from heft.cluster.nodes import Need
from heft.errors import HeftError
from heft.recipe.files import recipe_of_values, recipe_values
from heft.runtime import signals
from heft.storage.locks import wait_until_free
from heft.tasks.own import allow_import_from, folders_of_imports

SECONDS_TO_WAIT = 120.0
"""For the process that had the run before, on a node that was lost to the cluster but goes on for a while."""
STOPPED = "stopped"


@dataclass(frozen=True)
class Order:
    """A job as it is sent: its recipe as plain values, since a class of a person's own task is not known there.

    Attributes:
        name, base_from: of the job.
        recipe: its values.
        folders: from which tasks are imported.
        working: directory, from which relative paths count.
        environment: variables that a node is to have, where it has none of that name.
        directory: that all nodes see.
        threads: for computing on a CPU.
        gpus: of one run.
    """

    name: str
    recipe: dict[str, Any]
    base_from: tuple[Path, ...]
    folders: tuple[Path, ...]
    working: str
    environment: Mapping[str, str]
    directory: Path
    threads: int
    gpus: float


def order_of(job: Job, directory: Path, need: Need) -> Order:
    """A job, to be sent to a process that knows nothing."""
    return Order(
        name=job.name,
        recipe=recipe_values(job.recipe),
        base_from=job.base_from,
        folders=tuple(folders_of_imports()),
        working=os.getcwd(),
        environment=environment_to_send(),
        directory=directory.resolve(),
        threads=need.cpus,
        gpus=need.gpus,
    )


def work(order: Order, board: Any) -> Failure | str | None:
    """Begin a run or go on with it; None where it is finished, `STOPPED` where a signal ended it at a checkpoint."""
    take_environment(order.environment, order.gpus)
    reporter = Sending(order.name, socket.gethostname(), board.tell.remote, board.say.remote)
    with signals.handling():
        try:
            return _in_place(order, reporter)
        except KeyboardInterrupt:
            return STOPPED
        except Exception as error:
            return failure_of(error)


def _in_place(order: Order, reporter: Sending) -> Failure | None:
    """The run, from the directory from which it would be done in the driver's process."""
    if not order.directory.is_dir() or not Path(order.working).is_dir():
        raise HeftError(f"{socket.gethostname()} does not see {order.directory} and {order.working}")
    before = os.getcwd()
    os.chdir(order.working)
    try:
        import torch

        from heft.cluster.alone import do
        from heft.models.load import quiet

        quiet()
        torch.set_num_threads(order.threads)
        allow_import_from(*order.folders)
        job = Job(order.name, recipe_of_values(order.recipe), order.base_from)
        wait_until_free(job.recipe.output_dir, SECONDS_TO_WAIT)
        return do(job, reporter)
    finally:
        os.chdir(before)
