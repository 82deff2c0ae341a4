"""A pickle that leaves a mark when it is read."""

import pickle

import pytest
import torch


class Marker:
    """Unpickling one writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_pickle(path, marker):
    """Write weights to `path` whose unpickling would create the file `marker`."""
    torch.save({"model.embed_tokens.weight": Marker(marker)}, path)
    with pytest.raises(pickle.UnpicklingError):  # what torch's own reader does today, which heft does not lean on
        torch.load(path)
    assert not marker.exists()
