"""Which share of the rows a search measures its trials on."""

from heft.recipe.tune import TuneSettings

LEAST_VALIDATION, MOST_VALIDATION, VALIDATION_SHARE = 100, 1000, 0.2
"""Validation rows where `tune.holdout` is null; never more than half of all rows."""


def holdout_for(settings: TuneSettings, rows: int) -> float:
    """Share of the rows that trials are measured on."""
    if settings.holdout is not None:
        return settings.holdout
    count = min(max(LEAST_VALIDATION, round(VALIDATION_SHARE * rows)), MOST_VALIDATION, rows // 2)
    return max(1, count) / rows
