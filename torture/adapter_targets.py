"""The files of an adapter directory, as targets of the fuzzing."""

import json
import struct

from target import Target

from heft.errors import HeftError


class AdapterDirectory(Target):
    """heft.json."""

    def setup(self) -> None:
        (self.folder / "coarse").mkdir(exist_ok=True)
        self.path = self.folder / "heft.json"

    def seeds(self) -> list[bytes]:
        from heft.recipe.model import ModelSettings

        entries = [
            {"name": "coarse", "method": "lora", "stage": "coarse"},
            {"name": "fine", "method": "reft", "stage": "f"},
        ]
        values = {"format": 1, "heft_version": "0", "model": ModelSettings(name="random:tiny-llama").model_dump()}
        values |= {"base_fingerprint": "0" * 16, "adapters": entries, "task": {"name": "whereabouts"}}
        return [json.dumps(values | {"evaluation": {"batch_size": 8}}).encode()]

    def run(self, data: bytes) -> None:
        from heft.adapters.manifest import base_settings, read_manifest
        from heft.adapters.safety import adapter_folder
        from heft.recipe.files import evaluation_request

        self.path.write_bytes(data)
        manifest = read_manifest(self.folder)
        base_settings(self.folder, manifest, trust_remote_code=False)
        for entry in manifest.adapters:
            folder = adapter_folder(self.folder, entry.name)
            assert folder.resolve().parent == self.folder.resolve(), "an adapter's folder is not in its directory"
        values = manifest.model_dump()
        evaluation_request({key: values[key] for key in ("task", "evaluation", "model")})


class ForeignConfig(Target):
    """adapter_config.json that PEFT wrote, which a stage starts from, beside weights that are whole."""

    def setup(self) -> None:
        import torch
        from safetensors.torch import save_file

        names = ("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight")
        tensors = {f"base_model.model.{name}": torch.zeros(2, 2) for name in names}
        save_file(tensors, self.folder / "adapter_model.safetensors")

    def seeds(self) -> list[bytes]:
        from peft import LoraConfig

        patterns = {"target_modules": r".*q_proj", "rank_pattern": {r".*0.*": 4}}
        configs = [LoraConfig(r=2, **patterns), LoraConfig(target_modules=["v_proj"], exclude_modules=r".*\.1\..*")]
        return [json.dumps(config.to_dict(), default=sorted).encode() for config in configs]

    def run(self, data: bytes) -> None:
        from heft.adapters.foreign import read_foreign_config

        path = self.folder / "adapter_config.json"
        path.write_bytes(data)
        read_foreign_config(path, self.folder / "adapter_model.safetensors")


class AdapterConfig(Target):
    """adapter_config.json; what is accepted is attached to a model without weights, now and then."""

    def setup(self) -> None:
        self.count = 0

    def seeds(self) -> list[bytes]:
        from peft import LoraConfig

        from heft.reft.config import ReftConfig

        plain = {"task_type": "CAUSAL_LM", "inference_mode": True, "base_model_name_or_path": "m"}
        names = {
            "target_modules": ["q_proj", "down_proj"],
            "layers_to_transform": [1, 2],
            "rank_pattern": {"q_proj": 4},
        }
        configs = [LoraConfig(r=2, use_dora=True, **names, **plain), LoraConfig(target_modules=["v_proj"], **plain)]
        configs += [
            ReftConfig(positions="f2+l3", tied=False, activation="silu", **plain),
            ReftConfig(layers=[0, -1], **plain),
        ]
        return [json.dumps(config.to_dict(), default=sorted).encode() for config in configs]

    def run(self, data: bytes) -> None:
        from heft.adapters.safety import read_config

        path = self.folder / "adapter_config.json"
        path.write_bytes(data)
        config = read_config(path)
        self.count += 1
        if self.count % 50 == 1:
            from heft.adapters.directory import expected_tensors, without_weights
            from heft.builtin import tiny_llama

            expected_tensors(without_weights(tiny_llama()), "a", config, path)


class Weights(Target):
    """A safetensors file; one that fits must be one that the safetensors package reads too."""

    def setup(self) -> None:
        self.expected = {"base_model.model.a.weight": (2, 3), "base_model.model.b.weight": (4,)}

    def seeds(self) -> list[bytes]:
        names = list(self.expected)
        header = {
            names[0]: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "__metadata__": {"format": "pt"},
        }
        header[names[1]] = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
        text = json.dumps(header).encode()
        return [struct.pack("<Q", len(text)) + text + bytes(32)]

    def run(self, data: bytes) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from heft.adapters.weights import read_shapes, require_fit

        path = self.folder / "adapter_model.safetensors"
        path.write_bytes(data)
        require_fit(path, "a", read_shapes(path), self.expected)
        try:
            read = load_file(path)
        except SafetensorError as error:  # heft says it too, when it comes to the tensors
            raise HeftError(str(error)) from None
        assert {key: tuple(tensor.shape) for key, tensor in read.items()} == self.expected
