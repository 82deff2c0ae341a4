"""A person's rows, in whichever form they have them: files, data sets of the Hub, tables in memory.

`read_table` reads them all into one form, a list of rows with their places.
"""

from heft.tasks.table.faults import FAULTS_SHOWN, Row, fault_report, faults_by_cause
from heft.tasks.table.files import require_encoding, user_path
from heft.tasks.table.json_rows import read_json_lines
from heft.tasks.table.read import absolute, is_file_of, is_hub_id, locate, read_table, splits_of

__all__ = [
    "FAULTS_SHOWN",
    "Row",
    "absolute",
    "fault_report",
    "faults_by_cause",
    "is_file_of",
    "is_hub_id",
    "locate",
    "read_json_lines",
    "read_table",
    "require_encoding",
    "splits_of",
    "user_path",
]
