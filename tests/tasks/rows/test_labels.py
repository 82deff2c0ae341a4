"""Labels of rows: which there are, and what is said where there are none."""

import pytest

from heft.errors import HeftError
from heft.tasks.rows import RowsSettings
from heft.tasks.rows.labels import labels_found


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        (["refund", "delay"], {"1": "refund"}, "label 'delay' has no name; task.label_names has 1"),
        (
            [1, 2, 2],
            {"1": "refund"},
            "one label only, 'refund' in 'label'; expected at least two, and of the others label 2 has no name;"
            " task.label_names has 1",
        ),
        ([None, None], None, "label must be a label, text or a number; got null"),
        (["same", "same"], None, "the training rows have one label only, 'same' in 'label'"),
    ],
)
def test_where_there_are_no_two_labels_the_cause_is_said(labels, names, told):
    settings = RowsSettings(train="t.csv", prompt="{text}", answer="label", choices="labels", label_names=names)
    with pytest.raises(HeftError) as error:
        labels_found(settings, [{"text": "a", "label": label} for label in labels])
    assert told in str(error.value)
