"""The committed reference records as they are stored, past everything that reads them for a user."""

import json
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq

REFERENCE = Path(__file__).parent.parent / "results" / "reference"


@cache
def records(study: str) -> list[dict]:
    """The records in the parts of a study."""
    files = sorted((REFERENCE / study).glob("records*.parquet"))
    return [json.loads(t) for f in files for t in pq.read_table(f)["json"].to_pylist()]
