"""Meta-parameters that a cell does not draw but takes over from a training: ``start`` in its description.

    start = "0123456789abcdef"                              the id of a training cell
    start = {cell = "0123456789abcdef", stage = "half"}     its meta-parameters at a stage

The id is a hash of all that decides the training, and so part of what decides the cell that starts from it.
In which study of the results the training lies does not matter.
"""

from pathlib import Path
from typing import Any

import torch

from bench.api import Declined, Vector
from bench.errors import UsageError
from bench.record import Store, studies, trained

KEY, FILE = "start", "file"


class NotTrainedError(Declined, UsageError):
    """The training that a cell starts from is missing or unfinished."""

    def __init__(self, message: str):
        UsageError.__init__(self, message)


def located(description: dict[str, Any], results: Path | None) -> dict[str, Any]:
    """The description with the place and the SHA-256 of the file that its cell starts from, to be run.

    Raises `NotTrainedError` where there is none under ``results``.
    """
    if KEY not in description:
        return description
    cell_id = description[KEY]["cell"]
    if results is None:
        raise NotTrainedError(
            f"the cell starts from the training {cell_id}, and here is no folder of results"
        )
    path, sha256 = _file(cell_id, results)
    return description | {KEY: description[KEY] | {FILE: str(path.absolute()), "sha256": sha256}}


def taken_over(description: dict[str, Any], drawn: Vector) -> Vector:
    """The meta-parameters that a `located` cell starts from: ``drawn``, where it does not say otherwise.

    In float64 on the CPU. Raises `UsageError` where they are of another network than ``drawn``.
    """
    if KEY not in description:
        return drawn
    start = description[KEY]
    if FILE not in start:
        raise NotTrainedError(f"where the training {start['cell']} lies is not known here")
    found = torch.from_numpy(trained.stage(Path(start[FILE]), start["stage"], start["sha256"]))
    if found.shape != drawn.shape:
        got, wanted = found.numel(), drawn.numel()
        raise UsageError(
            f"the training {start['cell']} has {got:,} meta-parameters, and the problem of this cell "
            f"{wanted:,}; give both the same network, with inputs and outputs of the same sizes"
        )
    return found.to(torch.float64)


def _file(cell_id: str, results: Path) -> tuple[Path, str]:
    """The file of a finished training in any study under ``results``, and its SHA-256."""
    found: dict[str, Path] = {}
    unfinished = []
    for study in studies(results):
        store = Store(results, study, moves=False)
        if any(one.cell_id == cell_id for one in trained.finished(store.folder)):
            record = store.read(cell_id) or {}
            path = trained.file_of(store.folder, record)
            if record.get("status") == "ok" and path is not None and path.exists():
                found.setdefault(record["train"]["file"]["sha256"], path)
        elif cell_id in trained.checkpoints(store.folder):
            unfinished.append(study)
    if len(found) > 1:
        listed = " and ".join(map(str, found.values()))
        raise NotTrainedError(
            f"the training {cell_id} lies in {listed}, with other results; keep one of them"
        )
    for sha256, path in found.items():
        return path, sha256
    if unfinished:
        raise NotTrainedError(
            f"the training {cell_id} is not finished; first: metabench run {unfinished[0]} --cell {cell_id}"
        )
    for study in studies(results):
        store = Store(results, study, moves=False)
        path = trained.file_of(store.folder, store.read(cell_id) or {})
        if path is not None and not path.exists():
            raise NotTrainedError(
                f"the training {cell_id} has a record, but its file {path} is not there; first: "
                f"metabench run {study} --cell {cell_id} --force"
            )
    raise NotTrainedError(
        f"the training {cell_id} is not under {results}; run the study that has this cell there (`metabench "
        "plan STUDY --cells` lists ids), or bring it in by `metabench merge`"
    )
