"""Packs cells into jobs by what they need and how long they are likely to take. Nothing here is random."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

DEFAULT_MINUTES = 15.0  # of work in a job: long enough to pay for its start, short enough to fit into gaps


@dataclass(frozen=True, order=True)
class Needs:
    """The resource class of a cell: what the worker that runs it takes. Cells of one job share it."""

    gpus: int = 0
    memory_gb: float = 1.0  # a `bucket`
    threads: int = 1


@dataclass(frozen=True)
class Item:
    """A cell to pack: its id, predicted seconds and resource class."""

    id: str
    seconds: float
    needs: Needs = Needs()


@dataclass(frozen=True)
class Pack:
    """The cells of one job, in the order of the study: neighbours share tasks and references."""

    number: int
    needs: Needs
    workers: int
    seconds: float  # predicted, all workers together
    ids: tuple[str, ...] = field(repr=False)

    @property
    def minutes(self) -> float:
        """How long the job is likely to take."""
        return self.seconds / self.workers / 60


@dataclass(frozen=True)
class Packing:
    """How much goes into a job: ``cells`` of them or, where that is None, ``minutes`` of work.

    ``workers`` run cells at the same time. A job takes at most ``most_memory_gb``: where that does not hold
    all workers, there are fewer.
    """

    minutes: float = DEFAULT_MINUTES
    cells: int | None = None
    workers: int = 1
    most_memory_gb: float = float("inf")

    def workers_for(self, needs: Needs) -> int:
        """The number of workers that fit; at least 1."""
        return max(1, int(min(self.workers, self.most_memory_gb / needs.memory_gb)))


def bucket(gb: float, most: float = float("inf")) -> float:
    """The smallest power of two that is at least ``gb`` and 1, but ``most`` where that still holds ``gb``."""
    size = 1.0
    while size < gb:
        size *= 2
    return most if gb <= most < size else size


def pack(items: Iterable[Item], how: Packing) -> list[Pack]:
    """All items, each in one pack, numbered from 0; those of a class keep their order.

    A pack ends before the cell that would take it above the goal; a cell that is above it alone is alone.
    """
    classes: dict[Needs, list[Item]] = {}
    for item in items:
        classes.setdefault(item.needs, []).append(item)
    packs: list[Pack] = []
    for needs, members in sorted(classes.items()):
        workers = how.workers_for(needs)
        for group in _groups(members, how, workers):
            seconds, ids = sum(item.seconds for item in group), tuple(item.id for item in group)
            packs.append(Pack(len(packs), needs, min(workers, len(group)), seconds, ids))
    return packs


def arrays(packs: Iterable[Pack], most_tasks: int) -> list[list[Pack]]:
    """Packs that can be one array: of one resource class and number of workers, at most ``most_tasks``."""
    classes: dict[tuple[Needs, int], list[Pack]] = {}
    for one in packs:
        classes.setdefault((one.needs, one.workers), []).append(one)
    return [
        members[first : first + most_tasks]
        for _, members in sorted(classes.items())
        for first in range(0, len(members), most_tasks)
    ]


def _groups(items: Sequence[Item], how: Packing, workers: int) -> list[list[Item]]:
    if how.cells is not None:
        return [list(items[i : i + how.cells]) for i in range(0, len(items), how.cells)]
    goal = 60 * how.minutes
    groups: list[list[Item]] = []
    filled = float("inf")
    for item in items:
        filled += item.seconds
        if filled > goal * workers or item.seconds > goal:
            groups.append([])
            filled = item.seconds
        groups[-1].append(item)
        if item.seconds > goal:
            filled = float("inf")
    return groups
