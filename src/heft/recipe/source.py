"""A stage that starts from an adapter that exists: `from`, and which settings it leaves to a person.

The adapter's own settings come from its files, so a resolved recipe does not repeat them.
"""

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from heft.recipe.training import TrainingSettings
from heft.settings.base import PathOrId, Settings, value_error

_ALWAYS = {"method", "from_", "steps", "epochs"}
ONLY_NEW = ("init", "trainable_tokens", "orthogonal_to", "orthogonal_side")
"""Settings of a new adapter that one from files cannot have."""


class SourceSettings(Settings):
    """Where a stage's adapter comes from."""

    from_: PathOrId | None = Field(default=None, min_length=1, alias="from")
    """An adapter to start from: a folder in PEFT's format, a run or an adapter directory (of which the adapter of the
    stage's method is taken; DIR/NAME says which), or a Hub id (ORG/NAME or ORG/NAME@REVISION). Its settings, such as
    rank and targets, come from its files. With epochs or steps it is trained on; without, it is taken as it is, frozen,
    and the stage has no training settings. Null makes a new adapter. docs/from_adapters.md has more."""

    @model_validator(mode="after")
    def _only_what_applies_is_given(self) -> "SourceSettings":
        if self.from_ is None:
            return self
        given, own = self.model_fields_set, self._of_a_new_adapter()
        for key in ONLY_NEW:
            if key in given & own:
                text = f"has no effect on an adapter that exists (from: {self.from_}); remove it"
                raise value_error(text, below=(key,))
        useless = [key for key in type(self).model_fields if key in given - own - _ALWAYS]
        if self.is_frozen and useless:
            others = f", with {', '.join(useless[1:])}" if useless[1:] else ""
            text = (
                f"has no effect: the stage takes {self.from_} as it is and trains nothing; remove it{others}, or give"
                " epochs or steps to train on"
            )
            raise value_error(text, below=(useless[0],))
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All settings; with `from`, without those that the files have, and without training where there is none."""
        values = handler(self)
        if self.from_ is None:
            return values
        drop = self._of_a_new_adapter() - self.model_fields_set
        if self.is_frozen:
            drop |= type(self).model_fields.keys() - self._of_a_new_adapter() - _ALWAYS
        return {key: value for key, value in values.items() if key not in drop}

    def _of_a_new_adapter(self) -> set[str]:
        """Names of the settings of the adapter itself: all but those of training and those of the stage's own class."""
        own = set(type(self).__annotations__) | TrainingSettings.model_fields.keys() | _ALWAYS
        return type(self).model_fields.keys() - own
