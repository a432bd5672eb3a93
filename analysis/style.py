"""One colour, marker and line per method across the project, found by the method's label.

Families: exact MAML in black and greys with open markers; first-order methods in vermillion and orange;
iMAML with CG on a ramp of blues, darker with more iterations (Neumann purples, Hessian-free olives); others
in Okabe-Ito colours of their own; in JAX a method is dotted. Where a label names the engine, a filled marker
means compiled kernels (and a dashed line), a hollow one eager mode, a half-filled one compiled cells that ran
without a kernel. Every difference of colour is a difference of marker or line as well, and as long as markers
last no two labels of a figure share colour, marker and fill. A method nobody foresaw gets a style from a hash
of its label, in colours that the known ones do not use.
"""

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from matplotlib import colors

from bench.record import NO_KERNEL, RAN_EAGER

ONE_COLUMN = 3.3  # inches: one column of a two-column page
FULL_WIDTH = 6.9  # inches: its text width

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so the same figure comes out on every machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.35,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "mathtext.default": "regular",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "metabench",
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.03,
}

Line = str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Style:
    """How a method is drawn; ``line`` is as matplotlib has it, ``filled`` or ``half`` the marker's inside."""

    color: str
    marker: str
    line: Line = "-"
    filled: bool = True
    half: bool = False

    @property
    def point(self) -> tuple[str, str, bool, bool]:
        """What is left of the style where no line is drawn."""
        return self.color, self.marker, self.filled, self.half

    def options(self, **changes: Any) -> dict[str, Any]:
        """Keyword arguments for `Axes.plot`, with ``changes``."""
        own = {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.line,
            "markerfacecolor": self.color if self.filled or self.half else "white",
            "markerfacecoloralt": "white",
            "fillstyle": "left" if self.half else "full",
            "markeredgecolor": self.color,
            "markeredgewidth": 0.8,
        }
        return own | changes


KNOWN = {
    "MAML, adjoint": Style("#000000", "o", "-", filled=False),
    "MAML, unrolled": Style("#4d4d4d", "s", (0, (4, 1.5)), filled=False),
    "MAML, checkpointed": Style("#777777", "^", (0, (4, 1.2, 1, 1.2)), filled=False),
    "MAML, higher": Style("#999999", "D", (0, (1, 1.2)), filled=False),
    "MAML, JAX": Style("#000000", "X", (0, (1, 1))),
    "MAML, C++": Style("#000000", "d", (0, (1, 2.5))),
    "MAML": Style("#222222", "h", "-", filled=False),
    "FOMAML": Style("#D55E00", "v", (0, (6, 1.5))),
    "FOMAML, JAX": Style("#D55E00", ">", (0, (1, 1))),
    "FOMAML, C++": Style("#D55E00", "1", (0, (1, 2.5))),
    "Reptile": Style("#E69F00", "<", (0, (2, 1))),
    "iMAML, dense": Style("#009E73", "*", "-"),
    "iMAML, authors' code": Style("#8C510A", "P", (0, (5, 1, 1, 1, 1, 1))),
    "iMAML, CG": Style("#3b7fb6", "d", "-"),  # whatever the number of iterations
    "iMAML, JAX": Style("#2b5c8a", "*", (0, (1, 1))),
    "iMAML, C++": Style("#2b5c8a", "2", (0, (1, 2.5))),
    "iMAML": Style("#2b5c8a", "H", "-"),
}
DTYPES = {
    "float64": Style("#000000", "o", "-", filled=False),
    "float32": Style("#0072B2", "s", (0, (6, 1.5))),
    "tf32": Style("#8C510A", "v", (0, (1, 1))),
    "float16": Style("#009E73", "D", (0, (4, 1.2, 1, 1.2))),
    "bfloat16": Style("#D55E00", "^", (0, (2, 1))),
}
OUTERS = (
    Style("#000000", "o", "-", filled=False),
    Style("#0072B2", "s", (0, (6, 1.5))),
    Style("#D55E00", "^", (0, (2, 1))),
    Style("#009E73", "D", (0, (4, 1.2, 1, 1.2))),
    Style("#CC79A7", "v", (0, (1, 1))),
    Style("#E69F00", "P", (0, (3, 1, 1, 1, 1, 1))),
)
RAMPS = {  # label pattern -> colours from few to many iterations, line
    r"iMAML, CG (\d+)": (("#92c5de", "#08205c"), "-"),
    r"iMAML, Neumann (\d+)": (("#dfa0c8", "#6a1550"), (0, (3, 1.2))),
    r"iMAML Hessian-free, CG (\d+)": (("#c9bd54", "#5a5200"), (0, (6, 1, 1, 1))),
}
RAMP_MARKERS = {1: "o", 2: "s", 5: "^", 10: "D", 20: "v", 50: "p", 100: "X"}
ENGINES: dict[str, dict[str, Any]] = {  # as a label names them -> what is special then
    "eager": {"filled": False},
    "compiled": {"filled": True, "line": (0, (2.5, 1))},
    RAN_EAGER: {"filled": False, "half": True, "line": (0, (2.5, 1, 1, 1))},
    NO_KERNEL: {"filled": False, "half": True, "line": (0, (2.5, 1, 1, 1))},
}
PROBLEMS = ("linear regression", "sinusoid, tanh", "sinusoid", "glyphs", "omniglot", "CIFAR-FS")
ORDER = [
    "MAML, adjoint",
    "MAML, unrolled",
    "MAML, checkpointed",
    "MAML, higher",
    "MAML",
    "FOMAML",
    "Reptile",
    "iMAML, CG",
    "iMAML, Neumann",
    "iMAML, dense",
    "iMAML Hessian-free",
    "iMAML",
]

# Paul Tol's muted colours, as good for colour-blind readers and not used above.
OTHER_COLORS = ["#882255", "#117733", "#999933", "#AA4499", "#44AA99", "#661100", "#332288", "#CC6677"]
OTHER_MARKERS = ["h", "8", "p", "<", ">", "H", "d", "X"]
SHIFTS = 200  # styles that a label is offered until it gets one of its own
OTHER_LINES: list[Line] = [
    (0, (8, 1.5)),
    (0, (1, 1, 3, 1)),
    (0, (2, 2)),
    (0, (5, 1, 5, 1, 1, 1)),
    (0, (3, 1, 3, 3)),
]


def dtypes(names: Iterable[str]) -> dict[str, Style]:
    """The styles of the dtypes among ``names``, in the order of every legend."""
    there = set(names)
    return {name: look for name, look in DTYPES.items() if name in there}


def outers(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label of an outer optimizer: no two share colour, marker and line."""
    names = ordered(labels)
    more = styles(names[len(OUTERS) :])
    return dict(zip(names, OUTERS, strict=False)) | more


def of(label: str) -> Style:
    """The style of a method's label; the same one wherever and whenever it is asked for."""
    return _variant(label, 0)


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label, pairwise different; only labels whose hashes collide differ from `of`.

    The engines of a method share its marker.
    """
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels), key=lambda s: (base(s) != s, s)):
        groups.setdefault(_engine(label)[0], []).append(label)
    found: dict[str, Style] = {}
    for group in groups.values():
        taken, points = set(found.values()), {style.point for style in found.values()}
        offers = [{label: _variant(label, shift) for label in group} for shift in range(SHIFTS)]
        apart = (o for o in offers if points.isdisjoint(look.point for look in o.values()))
        other = (o for o in offers if taken.isdisjoint(o.values()))
        found |= next(apart, None) or next(other, offers[0])
    return {label: found[label] for label in ordered(found)}


def ordered(labels: Iterable[str]) -> list[str]:
    """Labels in the order of every legend and table: exact, first-order, implicit, others; 5 before 10."""
    return sorted(set(labels), key=rank)


def rank(label: str) -> tuple[int, tuple[tuple[int, float, str], ...]]:
    """Sort key of `ordered`."""
    families = [i for i, family in enumerate(ORDER) if label.startswith(family)]
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return min(families, default=len(ORDER)), tuple(
        (0, float(p), "") if i % 2 else (1, 0.0, p.lower()) for i, p in enumerate(parts)
    )


def problem_rank(label: str) -> tuple[int, tuple[tuple[int, float, str], ...]]:
    """Sort key of problems: ours from the simplest to the hardest, then the others by name."""
    known = [i for i, name in enumerate(PROBLEMS) if label.startswith(name)]
    return min(known, default=len(PROBLEMS)), rank(label)[1]


def base(label: str) -> str:
    """The longest known beginning of a label, up to a comma; the label itself if there is none."""
    parts = label.split(", ")
    for n in range(len(parts), 0, -1):
        head = ", ".join(parts[:n])
        if _known(head) is not None:
            return head
    return label


def _known(label: str) -> Style | None:
    if label in KNOWN:
        return KNOWN[label]
    for pattern, ((few, many), line) in RAMPS.items():
        if found := re.fullmatch(pattern, label):
            n = int(found[1])
            share = min(1.0, math.log(max(n, 1)) / math.log(20))
            return Style(
                _mix(few, many, share), RAMP_MARKERS.get(n) or _pick(OTHER_MARKERS, label, "marker"), line
            )
    return None


def _engine(label: str) -> tuple[str, str | None]:
    """A label without its engine, and the engine that it names."""
    parts = label.split(", ")
    for i in range(len(parts) - 1, 0, -1):
        if parts[i] in ENGINES:
            return ", ".join(parts[:i] + parts[i + 1 :]), parts[i]
    return label, None


def _variant(label: str, shift: int) -> Style:
    plain, engine = _engine(label)
    if engine is not None:
        return replace(_variant(plain, shift), **ENGINES[engine])
    head = base(label)
    known = _known(head)
    if known is not None and head == label and shift == 0:
        return known
    marker = _pick(OTHER_MARKERS, label, "marker", shift)
    line = _pick(OTHER_LINES, label, "line", shift // len(OTHER_MARKERS))
    if known is not None:  # a variant of a known method keeps its colour
        return replace(known, marker=marker, line=line)
    return Style(_pick(OTHER_COLORS, label, "color", shift), marker, line)


def _pick(choices: list[Any], label: str, what: str, shift: int = 0) -> Any:
    digest = hashlib.sha256(f"{what}:{label}".encode()).digest()
    return choices[(int.from_bytes(digest[:8], "big") + shift) % len(choices)]


def _mix(start: str, end: str, share: float) -> str:
    (r, g, b), (r1, g1, b1) = colors.to_rgb(start), colors.to_rgb(end)
    return colors.to_hex((r + share * (r1 - r), g + share * (g1 - g), b + share * (b1 - b)))
