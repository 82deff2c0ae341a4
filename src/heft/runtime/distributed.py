"""Several processes on one run, as torchrun and accelerate launch start them.

All do the same work, but for the training batches, of which each takes a part; one of them, the main process, writes
and speaks. Where nothing else is started there is one process, and it is the main one.
"""

import os
import sys
import warnings
from typing import TYPE_CHECKING

from heft.errors import HeftError

if TYPE_CHECKING:
    import torch


def count() -> int:
    """How many processes work on the run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_on_this_machine() -> int:
    """How many of them share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def shards(setting: str, processes: int | None = None) -> bool:
    """Whether the processes share the model out among them (FSDP2), by a recipe's `distributed`.

    "auto" does so where accelerate is configured for FSDP. `processes` is how many there will be; None for those that
    there are.
    """
    as_configured = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return (processes or count()) > 1 and (setting == "fsdp2" or (setting == "auto" and as_configured))


def runs_as(setting: str) -> str | None:
    """How several processes share the model, in words; None where there is one."""
    if count() == 1:
        return None
    how = "a shard of the model (FSDP2)" if shards(setting) else "the whole model (DistributedDataParallel)"
    return f"{count()} processes, each with {how}"


def init(device: "torch.device") -> None:
    """Join the process group; each has a graphics card of its own where `device` is of that kind.

    Raises:
        HeftError: there are more processes on this machine than graphics cards.
    """
    if count() > 1:
        import torch
        from accelerate import PartialState

        cards = torch.cuda.device_count()
        if device.type == "cuda" and count_on_this_machine() > cards:
            raise HeftError(
                f"{count_on_this_machine()} processes were started and this machine has {cards} CUDA devices, one for"
                f" each process; start {cards}, or set model.device=cpu"
            )
        # newer torch has another name for this argument of its own, which accelerate does not know
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        PartialState(cpu=device.type == "cpu")


def barrier() -> None:
    """Wait until every process is here."""
    if count() > 1:
        import torch
        from accelerate import PartialState

        if torch.distributed.get_backend() == "gloo":  # accelerate names a graphics card, of which there may be none
            torch.distributed.barrier()
        else:
            PartialState().wait_for_everyone()


def any_of(*flags: bool) -> list[bool]:
    """Each flag, whether any process has it set; all processes must ask at the same place."""
    if count() == 1:
        return list(flags)
    import torch
    from accelerate import PartialState

    state = PartialState()
    values = torch.tensor(flags, dtype=torch.int32, device=state.device)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return values.bool().tolist()


def shutdown() -> None:
    """Leave the process group, at the end of a program; torchrun makes one for a single process too."""
    torch = sys.modules.get("torch")  # a program that did not need it has no group
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
