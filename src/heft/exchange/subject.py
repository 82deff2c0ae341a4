"""What is exported: the adapters that are chosen of an adapter directory, read and checked, then loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peft import PeftConfig

from heft.adapters.directory import Loaded, open_adapters
from heft.adapters.manifest import AdapterManifest, base_settings, read_manifest
from heft.adapters.places import adapter_directory
from heft.adapters.safety import adapter_folder, adapter_paths, read_config
from heft.adapters.weights import read_shapes
from heft.alora import ActivatedLoraConfig
from heft.errors import HeftError
from heft.models.load import load_base
from heft.prediction.opening import adapters_of
from heft.recipe.model import ModelSettings
from heft.reft.config import ReftConfig


@dataclass(frozen=True)
class Subject:
    """An adapter directory, of which nothing is loaded yet.

    Attributes:
        directory: where it is.
        manifest: what its heft.json says.
        model: how its base is loaded.
        configs: PEFT's configuration of each chosen adapter, by name, in the order of training.
    """

    directory: Path
    manifest: AdapterManifest
    model: ModelSettings
    configs: dict[str, PeftConfig]

    @property
    def loras(self) -> dict[str, PeftConfig]:
        """The LoRA adapters among the chosen ones."""
        return {name: config for name, config in self.configs.items() if not isinstance(config, ReftConfig)}

    @property
    def refts(self) -> dict[str, ReftConfig]:
        """The ReFT adapters among them."""
        return {name: config for name, config in self.configs.items() if isinstance(config, ReftConfig)}

    @property
    def placed(self) -> list[str]:
        """The LoRA adapters that act on some tokens only."""
        return [name for name, config in self.configs.items() if isinstance(config, ActivatedLoraConfig)]

    def folder(self, name: str) -> Path:
        """The folder of an adapter."""
        return adapter_folder(self.directory, name)

    def adapts_embeddings(self, name: str) -> bool:
        """Whether a LoRA adapter has an update of an embedding, which adapters that exist may have."""
        return any(".lora_embedding_" in key for key in read_shapes(adapter_paths(self.folder(name))[1]))

    def without_reft(self) -> "Subject":
        """The same with the LoRA adapters alone."""
        return replace(self, configs=self.loras)

    def load(self) -> Loaded:
        """The base with the chosen adapters, and no others, active in evaluation mode."""
        return open_adapters(self.directory, load_base(self.model), names=self.configs)


def subject_of(
    given: str | Path,
    stages: Sequence[str] = (),
    base: str | None = None,
    trust_remote_code: bool = False,
    dtype: str | None = None,
    device: str | None = None,
) -> Subject:
    """Read what is exported; `stages` are those whose adapters it has, empty for all, `dtype` and `device` others to
    load in.

    Raises:
        HeftError: there is no such directory or stage, or a file of it is not as heft writes it.
    """
    directory = adapter_directory(given)
    manifest = read_manifest(directory)
    settings = base_settings(directory, manifest, trust_remote_code, base)
    others = {key: value for key, value in (("dtype", dtype), ("device", device)) if value is not None}
    settings = settings.model_copy(update=others)
    names = adapters_of(directory, manifest, stages)
    if not names:
        raise HeftError(f"--stages {' '.join(stages)} is the base model without adapters, so there is none to export")
    configs = {name: read_config(adapter_paths(adapter_folder(directory, name))[0]) for name in names}
    return Subject(directory, manifest, settings, configs)
