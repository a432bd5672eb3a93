"""`metabench verify`: is every record of a study what it was when it was written?"""

from pathlib import Path

from bench.cli.standing import command
from bench.cli.study import load_for_reading
from bench.cli.text import counting, say, say_json
from bench.record import Store
from bench.record.trained import NOT_THERE
from bench.record.verify import verify

NOTHING = 3
SHOWN = 20


def verify_records(study: str, repair: bool, results: Path, json: bool) -> int:
    """Read all records of a study; with ``repair`` move what is damaged aside. Returns the exit code."""
    store = Store(results, load_for_reading(study, results).name)
    verdict = verify(store, repair)
    if json:
        say_json(
            {
                "cells": len(verdict.cells),
                "damaged": [{"file": str(path), "why": why} for path, why in verdict.damaged],
                "run_again": sorted(verdict.lost),
                "notes": verdict.notes,
                "repaired": store.set_aside,
                "left": [str(path) for path in verdict.left] if repair else [],
                "train_again": sorted(verdict.untrained),
            }
        )
    else:
        gone = [(path, why) for path, why in verdict.damaged if why.startswith(NOT_THERE)]
        damaged = [(path, why) for path, why in verdict.damaged if not why.startswith(NOT_THERE)]
        _say(damaged, store.set_aside)
        _say(gone[:SHOWN], [])
        for note in verdict.notes:
            say(note)
        if repair and verdict.left:
            say("nothing was moved: make room or give access, and repair again", "red")
        if verdict.lost:
            say(
                f"{counting(len(verdict.lost), 'cell')} without a sound record{' now' if repair else ''}:",
                "bold",
            )
            for cell in sorted(verdict.lost)[:SHOWN]:
                say(f"  {cell}")
            if len(verdict.lost) > SHOWN:
                say(f"  and {len(verdict.lost) - SHOWN:,} more; --json lists all")
        if verdict.untrained:
            cells = counting(len(verdict.untrained), "cell")
            say(f"{cells} without the meta-parameters that were trained; the records are kept:", "bold")
            for cell in sorted(verdict.untrained)[:SHOWN]:
                say(f"  {command('run', study, results)} --cell {cell} --force")
            if len(verdict.untrained) > SHOWN:
                say(f"  and {len(verdict.untrained) - SHOWN:,} more; --json lists all")
        if damaged and not repair:
            say(f"next: {command('verify', study, results)} --repair")
        elif verdict.lost:
            say(f"next: {command('run', study, results)}")
        elif any(path.parent == store.folder for path, _ in damaged):  # a part of unknown cells
            say(f"next: {command('status', study, results)}")
        sound = counting(len(damaged), "damaged file") if damaged else "no damaged file" if gone else "sound"
        sound += " set aside" if damaged and repair else ""
        sound += f", {counting(len(gone), 'file')} of meta-parameters not there" if gone else ""
        say(f"{store.study}: {len(verdict.cells):,} cells with a sound record; {sound}", "bold")
    if not verdict.cells and not verdict.damaged:
        return NOTHING
    return 1 if verdict.left or verdict.untrained or (verdict.damaged and not repair) else 0


def _say(damaged: list[tuple[Path, str]], repaired: list[str]) -> None:
    for line in repaired or [f"{path} {why}" for path, why in damaged]:
        say(line, "red")
