"""Bounds of what adapters of every method have: those of recipes are those that are read back from a saved adapter."""

from typing import Annotated

from pydantic import Field

Rank = Annotated[int, Field(ge=1, le=2**20)]
Alpha = Annotated[float, Field(gt=0, le=1e9)]
