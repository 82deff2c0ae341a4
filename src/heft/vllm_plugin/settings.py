"""What `vllm serve --additional-config '{"heft": {…}}'` may set."""

from typing import Any

from pydantic import Field, ValidationError

from heft.edits.settings import Site
from heft.errors import HeftError
from heft.settings.base import Settings
from heft.settings.words import faults_of, in_one_line


class PluginSettings(Settings):
    """The plugin's settings; all have to be there when the model is loaded, since graphs are made of them."""

    rank: int = Field(default=8, ge=1, le=1024)
    """Rank that one adapter may have in one layer, where CUDA graphs are used; two sets of weights count twice."""
    sites: list[Site] = Field(default=["block"], min_length=1)
    """Outputs that can be edited: block, attention, mlp."""
    masked: bool | None = None
    """Compute every token with all adapters and mask the result: null, where CUDA graphs are used; true, always."""


def read_settings(additional_config: Any) -> PluginSettings:
    """The settings in vLLM's `additional_config`.

    Raises:
        HeftError: one is unknown or wrong.
    """
    values = additional_config.get("heft") if isinstance(additional_config, dict) else None
    try:
        return PluginSettings.model_validate({} if values is None else values, strict=True)
    except ValidationError as error:
        raise HeftError(f"--additional-config: heft: {in_one_line(faults_of(error, PluginSettings))}") from None
