"""Variables of the environment that go along to other nodes, for libraries that read them when they are imported."""

import os
from collections.abc import Mapping

_BEGINNINGS = ("HEFT_CACHE", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "MLFLOW_", "TRACKIO_")


def environment_to_send() -> dict[str, str]:
    """Those of this process."""
    return {key: value for key, value in os.environ.items() if key.startswith(_BEGINNINGS)}


def take_environment(sent: Mapping[str, str], gpus: float) -> None:
    """On a node, before anything slow is imported: take those that it has not itself.

    Where no GPU is asked for, none is seen, which Ray does not do by itself.
    """
    for key, value in sent.items():
        os.environ.setdefault(key, value)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
