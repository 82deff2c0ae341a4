"""Base class of every settings model: strict, frozen, and the single place where a setting is declared."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings. Unknown keys are errors, values are never silently converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
