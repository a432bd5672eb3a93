"""Figures as a page shows them: pictures that it carries, no larger than they need be."""

import base64
import io
import re
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from analysis import figures

PIXELS_PER_INCH = 125  # on a wide screen, a little larger than printed
MOST_POINTS = 300  # of one scatter that are still drawn as shapes, beyond as pixels
DECIMALS = 2  # of a point, in the coordinates of a figure


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it; ``width`` in CSS pixels."""

    name: str
    source: str
    width: int
    alt: str


def picture(name: str, drawing: figures.Drawing) -> Picture:
    """The figure as an SVG in a link; it is not as it was afterwards (`_with_pixels`)."""
    buffer = io.BytesIO()
    _with_pixels(drawing.figure)
    figures.write(drawing.figure, buffer, "svg")
    source = "data:image/svg+xml;base64," + base64.b64encode(_rounded(buffer.getvalue())).decode()
    inches = drawing.figure.get_figwidth()
    alt = f"Figure {name}. {drawing.caption['Shown']} The numbers are in the tables below."
    return Picture(name, source, round(inches * PIXELS_PER_INCH), alt)


def _with_pixels(figure: Figure) -> None:
    """Large scatters of a figure as pixels."""
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_linestyle() == "None" and np.size(line.get_xdata()) > MOST_POINTS:
                line.set_rasterized(True)


def _rounded(svg: bytes) -> bytes:
    """The same picture with coordinates to `DECIMALS`, in points (of shapes and places, not of scales)."""
    longer = rb"(\.\d{%d})\d+" % DECIMALS
    return re.sub(rb' (?:d|x|y)="[^"]*"', lambda m: re.sub(longer, rb"\1", m[0]), svg)
