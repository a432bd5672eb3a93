"""A study as the command line finds it: by name or path, and the copy of its file that lies with its records.

`run` keeps a copy of the study file as ``<results>/<study>/<study>.toml``. A study that was run from a file
somewhere can therefore be named like a shipped one, and its records stay readable when the file has gone.
"""

import os
from pathlib import Path

from bench import spec
from bench.cells import expand
from bench.cli.standing import of_no_cell, read
from bench.cli.text import warn
from bench.disk import write_whole
from bench.errors import UsageError, unknown
from bench.record import Record, Store, studies
from bench.spec import Spec


def copy_of(name: str, results: Path) -> Path:
    """Where the copy of a study's file lies."""
    return results / name / f"{name}.toml"


def load(study: str, results: Path) -> Spec:
    """The study of that name (shipped, or with records under ``results``) or at that path."""
    if study in spec.shipped() or study.endswith(".toml") or Path(study).is_file():
        return spec.load(study)
    if copy_of(study, results).is_file():
        return spec.load(copy_of(study, results))
    if os.sep in study:
        raise UsageError(
            f"there is no file {study}; a study is a name (`metabench list study`) or a TOML file"
        )
    known = [name for name in studies(results) if copy_of(name, results).is_file()]
    error = unknown("study", study, {*spec.shipped(), *known})
    raise UsageError(f"{error}. A study of your own is given as the path of its .toml file")


def load_for_reading(study: str, results: Path) -> Spec:
    """As `load`, but a file that has become faulty or has gone gives way, with a warning, to the copy.

    Records without any study file make a study without a question.
    """
    try:
        return load(study, results)
    except UsageError as error:
        name = Path(study).stem if study.endswith(".toml") else study
        if name not in studies(results) or not Store(results, name, moves=False).ids():
            raise
        copy = copy_of(name, results)
        if copy.is_file():
            warn(f"{error}\nThe copy that was run is used instead: {copy}")
            return spec.load(copy)
        warn(f"there is no study file for the records in {copy.parent}: {error}")
        return Spec(name, copy, f"Records of {name}", None, spec.DEFAULT_TIME_LIMIT, (), "")


def keep_copy(of: Spec, results: Path) -> None:
    """Write the copy of a study's file, unless it lies there already."""
    copy, content = copy_of(of.name, results), of.text.encode()
    if not (copy.is_file() and copy.read_bytes() == content):
        write_whole(copy, content)


def records(of: Spec, results: Path, unasked: bool) -> list[Record]:
    """The stored records of a study as it is now, in the order of its cells.

    Records of no cell of it (of earlier versions, or merged in) come too with ``unasked``, and where there
    are no others; a warning says how many there are. A study that cannot be expanded here (a plugin that is
    not installed) counts as having all of its records.
    """
    stored = read(Store(results, of.name))
    try:
        now = [cell.id for cell in expand(of)]
    except UsageError as error:
        warn(f"all records of {of.name} are shown, for its file cannot be compared with them: {error}")
        return list(stored.values())
    current = [stored[i] for i in now if i in stored]
    known = set(now)
    others = [record for i, record in stored.items() if i not in known]
    if stored and len(current) < len(now):
        warn(f"{of.name}: {len(now) - len(current)} of {len(now)} cells have no record yet")
    if others and current and not unasked:
        warn(f"{of.name}: {of_no_cell(len(others))} and are left out; --unasked takes them")
        return current
    if others:
        shown = "" if current else "; they are shown, as there are no others"
        warn(f"{of.name}: {of_no_cell(len(others))}{shown}")
    return current + others
