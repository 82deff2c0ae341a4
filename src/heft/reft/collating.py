"""Prompt lengths for training loops that remove the labels from the batch.

transformers' Trainer takes `labels` out of the batch for `label_smoothing_factor` and `compute_loss_func`, and TRL's
SFTTrainer does likewise, so that the model cannot tell from them where prompts end.
"""

from collections.abc import Callable
from typing import Any

from heft.reft.layout import attended_tokens, prompt_lengths_from_labels
from heft.reft.packing import Sequences, sequence_starts


class with_prompt_lengths:
    """A data collator whose batches tell a ReFT model where prompts end, also where a Trainer removes the labels.

    Args:
        data_collator: makes batches with `labels` in which the prompt is −100.
    """

    def __init__(self, data_collator: Callable[[list], dict[str, Any]]):
        self.data_collator = data_collator

    def __call__(self, features: list) -> dict[str, Any]:
        """The other collator's batch with `prompt_lengths`: one for each row, or for each sequence of packed rows.

        Raises:
            ValueError: the batch has no labels.
        """
        batch = self.data_collator(features)
        labels_BT, mask = batch.get("labels"), batch.get("attention_mask")
        if labels_BT is None:
            raise ValueError(
                f"with_prompt_lengths reads where prompts end from labels, and this batch has {', '.join(batch)}: use a"
                " collator that makes labels, or add prompt_lengths yourself"
            )
        attended_BT = attended_tokens(mask, *labels_BT.shape, labels_BT.device)
        starts_BT = sequence_starts(batch, attended_BT, mask is not None)
        if starts_BT is None:
            batch["prompt_lengths"] = prompt_lengths_from_labels(labels_BT, attended_BT)
        else:
            sequences = Sequences(starts_BT, attended_BT)
            batch["prompt_lengths"] = sequences.one_each(sequences.prompts_from_labels(labels_BT))
        return batch

    def __getattr__(self, name: str) -> Any:
        """What else the other collator has, such as its tokenizer."""
        if name == "data_collator":  # not there yet, while this is being read back from a pickle
            raise AttributeError(name)
        return getattr(self.data_collator, name)
