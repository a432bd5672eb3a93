"""Records and their store: one JSON file per cell, which any number of processes on any machine may write.

    <root>/<study>/records/<id>.json         one cell; replaced as a whole or not at all
    <root>/<study>/records.<hash>.parquet    parts: many cells in a file that never changes (`Store.compact`)
    <root>/<study>/repeated/                 further records of cells that have one
    <root>/<study>/set_aside/                files that could not be read; nothing is ever deleted unread

The record of a cell is what its loose file says, or else the part in which it was written last.
"""

from bench.disk import StoreError
from bench.record.form import (
    MEASURED,
    NO_KERNEL,
    RAN_EAGER,
    SCHEMA,
    STATUSES,
    Record,
    engine_of,
    timestamp,
    unmeasured,
)
from bench.record.repeated import differences
from bench.record.store import Store, find, studies

__all__ = [
    "MEASURED",
    "NO_KERNEL",
    "RAN_EAGER",
    "SCHEMA",
    "STATUSES",
    "Record",
    "Store",
    "StoreError",
    "differences",
    "engine_of",
    "find",
    "studies",
    "timestamp",
    "unmeasured",
]
