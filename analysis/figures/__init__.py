"""Figures: one module per question, found by name; here are saving, captions and what they share.

A figure module has ``draw(frame) -> list[Figure]``, where ``frame`` is `analysis.table.frame`'s, and
``shows(frame, drawn) -> str``: what is plotted, in words, where ``drawn`` are the elements that the figures
have (`panels.elements`). Where its caption takes more from the records than every caption does, it also has
``words(frame) -> dict[str, str]``, heading -> text. ``answer(frame) -> str`` is the answer to the study's
question in one sentence, put before the general verdicts. Where the medians of `table.summary` are no answer,
it has ``verdicts(frame)`` and ``tables(frame)`` in the place of the report's, and ``TABLE``, what these
tables hold; and where its verdict rests on more than these show, ``evidence(frame) -> dict[str, DataFrame]``,
name -> a table that its numbers are read from, to be downloaded. A study is drawn by the module that it names
as ``figure`` (`bench.spec.FIGURES` lists them), else by the one of its own name, else by `learning_curves`
where it trains, and by `overview`.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis import captions, panels, style
from bench.errors import UsageError, unknown
from bench.spec import TRAIN

if TYPE_CHECKING:
    from bench.spec import Spec

DPI = 300
# Metadata without dates, so that the same records give the same bytes.
_FORMATS: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": "metabench"},
    "svg": {"Date": None, "Creator": "metabench"},
    "png": {"Software": "metabench"},
}


@dataclass(frozen=True)
class Drawing:
    """A figure with the words under it: heading -> text, as `captions.caption` makes them."""

    figure: Figure
    caption: dict[str, str]


def names() -> list[str]:
    """The figure modules there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def module(spec: "Spec") -> ModuleType:
    """The module that draws a study; `UsageError` with the nearest name if it names one that is not there."""
    if spec.figure is not None and spec.figure not in names():
        raise unknown("figure", spec.figure, names(), ("figure",))
    usual = "learning_curves" if spec.sweeps and all(s.kind == TRAIN for s in spec.sweeps) else "overview"
    name = spec.figure or (spec.name if spec.name in names() else usual)
    return importlib.import_module(f"{__name__}.{name}")


def draw(spec: "Spec", frame: pd.DataFrame) -> dict[str, Drawing]:
    """File stem -> drawing; more than one where a study has more problems than fit side by side.

    Raises `UsageError` if there is no record to draw, or no such figure.
    """
    found = module(spec)
    if frame.empty:
        raise UsageError(f"study '{spec.name}' has no record to draw yet; first: metabench run {spec.name}")
    with mpl.rc_context(style.RC):
        figures = found.draw(frame)
    more = found.words(frame) if hasattr(found, "words") else {}
    drawn = panels.elements(figures)
    words = captions.caption(spec.question, found.shows(frame, drawn), frame, more, drawn)
    names = [spec.name if i == 0 else f"{spec.name}-{i + 1}" for i in range(len(figures))]
    return {name: Drawing(figure, words) for name, figure in zip(names, figures, strict=True)}


def save(drawings: dict[str, Drawing], folder: Path) -> list[Path]:
    """Write ``NAME.pdf``, ``.svg``, ``.png`` and ``.txt`` (the caption) of each; returns the paths written.

    Raises `UsageError` where the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, drawing in drawings.items():
            for ending in _FORMATS:
                written.append(folder / f"{name}.{ending}")
                content = BytesIO()  # rendered whole first: a full disk must not surface inside matplotlib
                write(drawing.figure, content, ending)
                written[-1].write_bytes(content.getvalue())
            written.append(folder / f"{name}.txt")
            written[-1].write_text(captions.text(drawing.caption), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write figures into {folder}: {error.strerror or error}") from error
    return written


def write(figure: Figure, target: Any, ending: str) -> None:
    """Write one figure as "pdf", "svg" or "png" (300 dpi) into a path or a binary file."""
    with mpl.rc_context(style.RC):
        figure.savefig(target, format=ending, dpi=DPI, metadata=_FORMATS[ending])
