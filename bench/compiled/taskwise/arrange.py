"""Which loops are one, in which order they run, and where scratch memory lies."""

from collections.abc import Sequence

from bench.compiled.taskwise.steps import Step
from bench.compiled.taskwise.terms import FAR, Load, Memory

Space = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]  # sizes of loops; for every tensor its strides


def groups(steps: Sequence[Step]) -> list[list[Step]]:
    """Neighbouring loops of the same sizes become one, where what one writes the other reads in its place."""
    found: list[list[Step]] = []
    for step in steps:
        if found and _joins(found[-1], step):
            found[-1].append(step)
        else:
            found.append([step])
    return found


def _joins(group: Sequence[Step], step: Step) -> bool:
    if step.kind != "loop" or group[0].kind != "loop" or space(step)[0] != space(group[0])[0]:
        return False
    if step.out.memory.by_task != group[0].out.memory.by_task:
        return False
    for other in group:
        pairs = [(other.out, load) for load in step.reads()] + [(step.out, load) for load in other.reads()]
        if any(_meet(one, two) and not _same(one, two) for one, two in pairs):
            return False
        if _meet(other.out, step.out):
            return False
    # Written in the order of the first one's loops: the places must be the same numbers of the same loop.
    return all(_order(other.out) == _order(step.out) for other in group)


def _meet(one: Load, two: Load) -> bool:
    return one.memory.root()[0] is two.memory.root()[0]


def _same(one: Load, two: Load) -> bool:
    layouts = [(x.at.shape, x.at.stride(), x.at.storage_offset()) for x in (one, two)]
    return one.memory is two.memory and layouts[0] == layouts[1]


def _order(out: Load) -> list[int]:
    """The axes in the order of the loops that fill ``out``, outermost first."""
    axes = [axis for axis, size in enumerate(out.at.shape) if size > 1 and out.at.stride(axis) != FAR]
    return sorted(axes, key=lambda axis: -out.at.stride(axis))


def space(step: Step) -> Space:
    """The loops of a step, outermost first, with axes in one that lie behind each other in all tensors."""
    tensors = [step.out, *step.reads()]
    sizes: list[int] = []
    strides: list[tuple[int, ...]] = []
    for axis in _order(step.out):
        size, here = step.out.at.shape[axis], tuple(x.at.stride(axis) for x in tensors)
        if sizes and strides[-1] == tuple(stride * size for stride in here):
            sizes[-1], strides[-1] = sizes[-1] * size, here
        else:
            sizes.append(size)
            strides.append(here)
    return tuple(sizes), tuple(zip(*strides, strict=True)) if strides else ((),) * len(tensors)


def place(groups: Sequence[Sequence[Step]]) -> int:
    """Give all scratch memory its place, where none is used at the same time; the bytes that takes."""
    first: dict[Memory, int] = {}
    last: dict[Memory, int] = {}
    for time, group in enumerate(groups):
        for step in group:
            for x in (step.out, *step.reads()):
                root = x.memory.root()[0]
                if root.kind == "scratch":
                    first.setdefault(root, time)
                    last[root] = time
    live: list[tuple[int, int, Memory]] = []
    total = 0
    for memory, time in first.items():
        live = sorted(entry for entry in live if last[entry[2]] >= time)
        room = -(-memory.length * memory.dtype.itemsize // 64) * 64
        start = 0
        for at, taken, _ in live:
            if start + room <= at:
                break
            start = max(start, at + taken)
        memory.place = start
        live.append((start, room, memory))
        total = max(total, start + room)
    return total
