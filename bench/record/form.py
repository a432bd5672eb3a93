"""One record and its text. JSON has no infinities and no NaN: they are null."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.errors import UsageError
from bench.record.shape import shape_fault

SCHEMA = 1
STATUSES = (
    "ok",
    "not_converged",  # measured; a solver did not meet its own tolerance
    "non_finite",  # ran to the end with an infinite or undefined result
    "error",
    "out_of_memory",
    "timed_out",
    "killed",  # the worker process ended in the middle
    "declined",  # a plugin cannot serve this cell and says why
)
MEASURED = ("ok", "not_converged", "non_finite")  # the statuses whose records hold numbers
Record = dict[str, Any]
RAN_EAGER = "compiled (ran eager)"  # asked for compiled, and every kernel fell back
NO_KERNEL = "compiled (no kernel)"  # asked for compiled, and the method asked for no kernel


def rank(status: str) -> int:
    """The better of two records of a cell has the higher one: ok, then measured, then not killed."""
    return 2 * (status == "ok") + (status in MEASURED) - (status == "killed")


# As `text_of` writes the keys of a record: no key inside another one has a single space before it.
_SCHEMA = f'\n "schema": {SCHEMA},\n'.encode()
_CELL, _STATUS = b'\n "cell": {', b'\n "status": "'


class UnreadableError(Exception):
    """A file that is no record (or no part), and why."""


def timestamp(seconds_ago: float = 0.0) -> str:
    """A moment as records write it: UTC, to the millisecond; such texts sort by time."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unmeasured(
    study: str, cell_id: str, description: dict[str, Any], status: str, reason: dict[str, Any], seconds: float
) -> Record:
    """The record of a cell that ended after ``seconds`` without a measurement.

    ``reason`` holds message, type and traceback (None where there is none).
    """
    return {
        "schema": SCHEMA,
        "id": cell_id,
        "study": study,
        "cell": description,
        "status": status,
        "reason": reason,
        "started": timestamp(seconds_ago=seconds),
        "seconds": seconds,
    }


def engine_of(record: Record) -> str:
    """What a cell ran on: "eager", "compiled", `RAN_EAGER` or `NO_KERNEL`; what it asks for if it failed."""
    asked = record["cell"].get("engine", "eager")
    kernels = record.get("engine")
    if asked != "compiled" or kernels is None or any("eager" not in one for one in kernels.values()):
        return asked
    return RAN_EAGER if kernels else NO_KERNEL


def text_of(record: Record) -> bytes:
    """The text of a record: the same for the same record, one value a line. `ValueError` if it is none."""
    finite = _finite(record)
    if fault := _fault(finite, finite.get("id")):
        raise ValueError(f"this record {fault}")
    return (json.dumps(finite, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def parse(text: str | bytes, cell_id: str) -> Record:
    """The record of a cell in its text; raises `UnreadableError`, or `UsageError` if its schema is later."""
    try:
        record = _decode(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableError("is empty" if not text else f"is not valid JSON ({error})") from error
    if isinstance(record, dict) and type(schema := record.get("schema")) is int and schema > SCHEMA:
        raise UsageError(
            f"the record of cell {cell_id} of study {record.get('study')} has schema {schema}, and this "
            f"version of metabench reads schema {SCHEMA}: a newer version wrote it, and reads both"
        )
    if fault := _fault(record, cell_id):
        raise UnreadableError(fault)
    return record


def status_in(text: bytes, cell_id: str) -> str:
    """The status of the record in ``text``, read off where that looks whole and as `text_of` writes it.

    Anything else is parsed, and raises what `parse` does.
    """
    # Keys are sorted: each is sought next to another one, from the end, away from what is long.
    schema = text.rfind(_SCHEMA)
    cell = text.rfind(_CELL, 0, max(schema, 0))
    at = text.find(_STATUS, max(schema, 0)) + len(_STATUS)
    whole = cell > 0 and text.startswith(b"{\n") and text.endswith(b"\n}\n")
    if whole and text.find(b'\n "id": "%b",\n' % cell_id.encode(), cell, schema) > 0 and at > schema:
        status = text[at : text.find(b'"', at)].decode(errors="replace")
        if status in STATUSES:
            return status
    return parse(text, cell_id)["status"]


def _decode(text: str | bytes) -> Any:
    return _JSON.decode(text if isinstance(text, str) else text.decode())


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}")


_JSON = json.JSONDecoder(parse_constant=_no_number)  # Python reads NaN and Infinity, other readers do not


def _finite(value: Any) -> Any:
    """As JSON can hold it. Text that is no Unicode becomes text that is."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _fault(record: Any, cell_id: Any) -> str | None:
    if not isinstance(record, dict):
        return "is no JSON object"
    if record.get("schema") != SCHEMA:
        return f"has schema {record.get('schema')}, and this version of metabench reads schema {SCHEMA}"
    if not isinstance(cell_id, str) or record.get("id") != cell_id:
        return f"says that it is of cell {record.get('id')}"
    if not re.fullmatch(r"[\w-]+", cell_id):  # it names files
        return f"has the impossible id {cell_id!r}"
    if record.get("status") not in STATUSES:
        return f"has the unknown status {record.get('status')!r}"
    if "cell" not in record:
        return "has no description of its cell"
    return shape_fault(record)
