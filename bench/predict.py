"""How long a cell is likely to take and how much memory it needs, before it runs.

Cells that differ in nothing but the seed are one *kind*. A kind's time is that of its done cells; else that
of a done kind of the same *family* (problem, plugins and switches, whatever the numbers), in proportion to
the oracle calls; else a guess from the oracle calls that the method declares; else a default. Its memory is
what its done cells held; else the peak of a run on fake tensors, one a kind; else that of a larger kind of
its family.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from typing import Any

import torch

from bench import registry
from bench.cells import Cell, canonical
from bench.fake import Faker, faker
from bench.kinds import Families, Family, Kind, shape, steps_of, with_steps
from bench.plugin import Resources
from bench.record import MEASURED, Record
from bench.work import guess, trains

Read = Callable[[Callable[[str], bool]], Iterable[Record]]

BUDGET_S = 4.0  # of all predictions together
DEFAULT_S = 60.0
GUESSED_PARAMS = 10_000
LOOKED_AT = (*MEASURED, "timed_out", "out_of_memory")  # the statuses whose records say what a cell takes
SAMPLES = 3  # done cells that are looked at for a kind
WITNESSES = 8  # done kinds that are looked at for a family
MOST_KINDS_READ = 1000  # of all kinds
MOST_STEPS_FAKED = 8  # inner steps of a run on fake tensors
LONGEST_FAKE = 0.25  # share of the budget for one run on fake tensors


@dataclass(frozen=True)
class Prediction:
    """``memory`` is what the cell adds to a process, in bytes, None if unknown. ``how``: by what."""

    seconds: float
    memory: int | None
    resources: Resources
    how: str


def predict(
    pending: Sequence[Cell],
    done: Iterable[Cell],
    read: Read,
    budget_s: float | None = None,
    memory: bool = True,
) -> list[Prediction]:
    """A prediction for each of ``pending``; ``read`` gives records of ``done`` cells, as `Store.each` does.

    Takes about ``budget_s`` at most, `BUDGET_S` by default, besides some microseconds a cell; what is not
    looked at by then is predicted by what has been. Without ``memory`` that is left unknown.
    """
    return _Oracle(read, BUDGET_S if budget_s is None else budget_s).predict(pending, done, memory)


class _Oracle:
    def __init__(self, read: Read, budget_s: float):
        self._read, self._budget = read, budget_s
        self._start = time.monotonic()
        self._texts: dict[int, tuple[Any, str]] = {}  # by identity: cells share the tables of their plugins
        self._shapes: dict[str, str] = {}
        self._plugins: dict[tuple[str, str], Any] = {}
        self._params: dict[str, int] = {}
        self._kinds: dict[tuple[Any, ...], Kind] = {}
        self._blind: set[Family] = set()  # whose memory fake tensors do not tell

    def predict(self, pending: Sequence[Cell], done: Iterable[Cell], memory: bool) -> list[Prediction]:
        wanted = [self._kind(cell) for cell in pending]
        for cell in done:
            kind = self._kind(cell)
            if len(kind.done) < SAMPLES:
                kind.done.append(cell.id)
        self._start = time.monotonic()  # the budget is for what follows: so far there is no choice
        for kind in self._kinds.values():
            kind.work = self._work(kind)
        families: Families = {}
        for kind in self._kinds.values():
            families.setdefault(kind.family, []).append(kind)
        pending_kinds = dict.fromkeys(wanted)
        self._look(pending_kinds, families)
        witnesses = {name: [k for k in kinds if k.records] for name, kinds in families.items()}
        peaks = self._peaks(pending_kinds, families) if memory else dict.fromkeys(pending_kinds)
        found = {}
        for kind in pending_kinds:
            asked = self._asked(kind)
            seconds, how = _time(kind, witnesses[kind.family], asked)
            found[kind] = Prediction(seconds, peaks[kind], asked, how)
        return [found[kind] for kind in wanted]

    def _left(self, share: float) -> float:
        """Seconds until ``share`` of the budget is spent."""
        return self._start + share * self._budget - time.monotonic()

    def _text(self, value: Any) -> str:
        known = self._texts.get(id(value))
        if known is None:
            known = self._texts[id(value)] = value, canonical(value)
        return known[1]

    def _kind(self, cell: Cell) -> Kind:
        of = cell.description
        parts = [self._text(v) if isinstance(v, dict | list) else v for k, v in of.items() if k != "seed"]
        key = tuple(parts)
        kind = self._kinds.get(key)
        if kind is None:
            problem, method = self._text(of["problem"]), self._text(of["method"])
            if method not in self._shapes:
                self._shapes[method] = shape(of["method"])
            family = (problem, self._shapes[method], of.get("engine"), of.get("device"), trains(of))
            kind = self._kinds[key] = Kind(of, problem, method, family)
        return kind

    def _look(self, pending: Iterable[Kind], families: Families) -> None:
        """Read the records of done cells: of the pending kinds, and of some others of their families."""
        others: dict[Kind, None] = {}
        for name in dict.fromkeys(kind.family for kind in pending):
            known = sorted((k for k in families[name] if k.done), key=lambda k: k.work or 0.0)
            others |= dict.fromkeys(known[:: max(1, len(known) // WITNESSES)])
        kinds = [*others, *(k for k in pending if k.done and k not in others)]
        kinds = kinds[:: 1 + len(kinds) // MOST_KINDS_READ]
        chosen = {cell_id: kind for kind in kinds for cell_id in kind.done}
        for record in self._read(chosen.__contains__) if chosen else ():
            if record.get("seconds"):
                chosen[record["id"]].records.append(record)
            if self._left(0.5) < 0:
                return

    def _plugin(self, kind: str, text: str, table: dict[str, Any]) -> Any:
        """The plugin of a table; None where it cannot be built, or there is no time to."""
        if (kind, text) not in self._plugins:
            if self._left(0.35) < 0:
                return None
            try:
                self._plugins[kind, text] = registry.build(kind, table)
            except Exception:  # noqa: BLE001  an unknown plugin of an old record, or a third party's fault
                self._plugins[kind, text] = None
        return self._plugins[kind, text]

    def _n_params(self, kind: Kind) -> int:
        if kind.problem not in self._params:
            problem = self._plugin("problem", kind.problem, kind.description["problem"])
            try:
                self._params[kind.problem] = problem.init(torch.Generator().manual_seed(0)).numel()
            except Exception:  # noqa: BLE001  its data may be missing here
                self._params[kind.problem] = GUESSED_PARAMS
        return self._params[kind.problem]

    def _work(self, kind: Kind) -> float | None:
        """Seconds of a cell as guessed from the calls that its method declares."""
        method, of = self._plugin("method", kind.method, kind.description["method"]), kind.description
        n_params = self._n_params(kind)
        try:
            cost = method.cost(n_params)
        except Exception:  # noqa: BLE001  no such method here, or one that declines its parts
            cost = None
        if cost is None or "passes" not in of:
            return None
        return guess(cost, of, n_params)

    def _asked(self, kind: Kind) -> Resources:
        """The most that a plugin of the kind asks for."""
        tables = (("problem", kind.problem), ("method", kind.method))
        plugins = [self._plugin(name, text, kind.description[name]) for name, text in tables]
        asked = [part.resources for plugin in plugins for part in registry.parts(plugin)]
        return Resources(
            max((one.gpus for one in asked), default=0),
            max((one.memory_gb for one in asked if one.memory_gb is not None), default=None),
            max((one.minutes for one in asked if one.minutes is not None), default=None),
        )

    def _peaks(self, pending: Iterable[Kind], families: Families) -> dict[Kind, int | None]:
        """Memory of the pending kinds: as seen, as faked, or that of the next larger kind of the family."""
        peaks = {kind: self._seen(kind) for kind in pending}
        rows = []
        for name in dict.fromkeys(kind.family for kind in peaks):
            row = [kind for kind in families[name] if kind in peaks and peaks[kind] is None]
            rows.append(sorted(row, key=lambda kind: -(kind.work or 0.0)))
        with faker() as fake:
            for place, column in enumerate(zip_longest(*rows)):  # the largest of every family first
                for kind in column:
                    if self._left(1.0) > 0 and kind is not None and kind.family not in self._blind:
                        peaks[kind] = self._fake(kind, fake)
                        if place == 0 and peaks[kind] is None:
                            self._blind.add(kind.family)  # what the largest does not tell, no other will
        for row in rows:
            bound = None
            for kind in row:
                peaks[kind] = bound = bound if peaks[kind] is None else peaks[kind]
        return peaks

    def _seen(self, kind: Kind) -> int | None:
        """What a kind's done cells added to a process at most; twice what was too much for one."""
        found = []
        for record in kind.records:
            if burst := (record.get("reason") or {}).get("resident_bytes"):
                return 2 * burst
            found.append((record.get("resident") or {}).get("growth_bytes"))
            if kind.description.get("device") == "cpu":  # elsewhere tensors are not the process's memory
                found.append((record.get("tensor_bytes") or {}).get("peak"))
        known = [peak for peak in found if peak is not None]
        return self._with_references(max(known), kind) if known else None

    def _with_references(self, peak: int, kind: Kind) -> int:
        """The peak with the accuracy pass: the method's references in float64, over stored iterates."""
        of = kind.description
        if "accuracy" not in of["passes"]:
            return peak
        wider = 1 if of["dtype"] == "float64" else 2
        return wider * peak + 8 * 3 * steps_of(of) * self._n_params(kind) * of["n_tasks"]

    def _fake(self, kind: Kind, fake: Faker) -> int | None:
        if kind.description.get("device") != "cpu":
            return None
        of = kind.description
        steps = steps_of(of)
        if steps <= MOST_STEPS_FAKED:
            peak = self._one_fake(of, fake)
        else:  # a step more adds the same again, or less
            few = (MOST_STEPS_FAKED // 2, MOST_STEPS_FAKED)
            peaks = [self._one_fake(with_steps(of, n), fake) for n in few]
            if peaks[0] is None or peaks[1] is None:
                return None
            peak = peaks[1] + (peaks[1] - peaks[0]) * (steps - few[1]) // (few[1] - few[0])
        return None if peak is None else self._with_references(peak, kind)

    def _one_fake(self, of: dict[str, Any], fake: Faker) -> int | None:
        return fake.peak(of, min(self._left(1.0), LONGEST_FAKE * self._budget))


def _time(kind: Kind, witnesses: Iterable[Kind], asked: Resources) -> tuple[float, str]:
    own = _seconds(kind)
    if own is not None:
        return own, "done cells"
    if asked.minutes is not None:
        return 60 * asked.minutes, "its plugins"
    like = [(other, seconds) for other in witnesses if (seconds := _seconds(other)) is not None]
    if like:
        nearest, seconds = min(like, key=lambda pair: _distance(kind, pair[0]))
        ratio = kind.work / nearest.work if kind.work and nearest.work else 1.0
        return seconds * ratio, "like cells"
    return (kind.work, "oracle calls") if kind.work else (DEFAULT_S, "default")


def _distance(one: Kind, other: Kind) -> float:
    return abs(math.log(one.work / other.work)) if one.work and other.work else math.inf


def _seconds(kind: Kind) -> float | None:
    """What a kind's done cells took; a cell that ran into its time limit took at least that."""
    taken = [_taken(r) for r in kind.records if r["status"] in (*MEASURED, "timed_out")]
    return median(taken) if taken else None


def _taken(record: Record) -> float:
    """Seconds of a cell, with those of the steps that an earlier run had taken before it was killed."""
    training = record.get("train") or {}
    return record["seconds"] + training.get("resumed_at", 0) * (training.get("seconds_per_step") or 0.0)
