"""The files of a directory that pyreft saved, as targets of the fuzzing."""

import json
from pathlib import Path

from target import Target

KEYS = [f"layer_{layer}_comp_block_output_unit_pos_nunit_1#{n}" for n in (0, 1) for layer in (0, 2)]


def state():
    """The tensors of an intervention."""
    from collections import OrderedDict

    import torch

    return OrderedDict(weight=torch.ones(2, 8), bias=torch.ones(2), rotate_layer=torch.eye(8, 2))


class PyreftConfig(Target):
    """config.json, beside the interventions that it names."""

    def setup(self) -> None:
        import torch

        for key in KEYS:
            torch.save(state(), self.folder / f"intkey_{key}.bin")

    def seeds(self) -> list[bytes]:
        kind = "<class 'pyreft.interventions.LoreftIntervention'>"
        values = {
            "representations": [[layer, "block_output", "pos", 1, 2, None] for layer in (0, 2, 0, 2)],
            "intervention_types": [kind] * 4,
            "sorted_keys": KEYS,
            "position": "f1+l1",
            "share_weights": False,
        }
        path = {"component": "model.layers[0].output", "layer": 0, "unit": "pos"}
        one = {"representations": [path], "intervention_types": [kind], "sorted_keys": KEYS[:1], "position": "l1"}
        return [json.dumps(each).encode() for each in (values, one)]

    def run(self, data: bytes) -> None:
        from heft.exchange.from_pyreft import read_pyreft

        (self.folder / "config.json").write_bytes(data)
        read_pyreft(self.folder)


class PyreftState(Target):
    """The pickled tensors of an intervention."""

    def seeds(self) -> list[bytes]:
        import torch

        path = Path(self.folder) / "seed.bin"
        torch.save(state(), path)
        return [path.read_bytes()]

    def run(self, data: bytes) -> None:
        from heft.exchange.from_pyreft import read_state

        path = self.folder / "state.bin"
        path.write_bytes(data)
        read_state(path)
