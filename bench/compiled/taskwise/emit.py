"""Steps of one task as C++: loops over numbers, each a function of its own, and calls of `runtime.h`."""

from collections.abc import Callable, Iterable, Sequence

from bench.compiled.taskwise.arrange import groups, place, space
from bench.compiled.taskwise.operations import literal
from bench.compiled.taskwise.steps import Step, Steps
from bench.compiled.taskwise.terms import NAMES, Load, Number, Op, Term, loads

LANES = 64  # at most that many sums side by side, where one long axis is summed


def source(steps: Steps) -> tuple[str, int]:
    """The text behind `runtime.h`, and the bytes of scratch that a task takes."""
    writer = _Writer(steps)
    arranged = groups(steps.steps)
    scratch = place(arranged)
    for group in arranged:
        writer.write(group)
    return writer.text(scratch), scratch


class _Writer:
    def __init__(self, steps: Steps):
        self._steps = steps
        self._functions: list[str] = []
        self._calls: list[str] = []

    def write(self, group: Sequence[Step]) -> None:
        step = group[0]
        write: dict[str, Callable[[Step], None]] = {
            "reduce": self._reduce, "turn": self._turn, "product": self._product,
            "gather": self._look_up, "scatter": self._look_up, "scatter_add": self._look_up,
        }  # fmt: skip
        if step.kind == "loop":
            self._loop(group)
        else:
            write[step.kind](step)

    def text(self, scratch: int) -> str:
        steps = self._steps
        tensors = [*steps.given, *(memory for memory, _ in steps.results)]
        pointers = [
            f"{NAMES[x.dtype]} *__restrict {x.name} = static_cast<{NAMES[x.dtype]} *>(tensors[{i}]);"
            for i, x in enumerate(tensors)
        ]
        return "\n".join([
            "namespace {", *self._functions,
            "void task(void *const *tensors, long t) {",
            f"alignas(64) char scratch[{max(scratch, 64)}];", "(void)scratch, (void)t;",
            *pointers, *self._calls, "}", "}",
            'extern "C" void run(void *const *tensors, int threads) {', "(void)threads;",
            "#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)",
            f"for (long t = 0; t < {steps.n_tasks}; t++) task(tensors, t);", "}", "",
        ])  # fmt: skip

    def _call(self, body: Sequence[str], pointers: "_Pointers") -> None:
        name = f"part{len(self._functions)}"
        self._functions.append("\n".join([f"APART void {name}({pointers.parameters}) {{", *body, "}"]))
        self._calls.append(f"{name}({pointers.arguments});")

    def _loop(self, group: Sequence[Step]) -> None:
        pointers, body = _Pointers(), _Body()
        sizes = space(group[0])[0]
        for step in group:
            _, strides = space(step)
            places = {id(x): own for x, own in zip([step.out, *step.reads()], strides, strict=True)}

            def read(x: Load, places: dict = places, by_task: bool = step.out.memory.by_task) -> str:
                names = [f"i{k}" for k in range(len(places[id(x)]))]
                return f"{pointers.name(x, by_task)}[{_index(names, places[id(x)])}]"

            assert step.term is not None
            body.assign(read(step.out), body.value(step.term, read), NAMES[step.out.dtype])
        self._call(_nest(enumerate(sizes), body.lines), pointers)

    def _reduce(self, step: Step) -> None:
        term, kind = step.term, NAMES[step.out.dtype]
        assert term is not None
        tensors, shape = list(loads(term)), _shape(step)
        own = step.out.memory.by_task
        kept = [axis for axis in range(int(own), len(shape)) if axis not in step.axes and shape[axis] > 1]
        summed = [axis for axis in step.axes if shape[axis] > 1]
        pointers = _Pointers()

        def near(axis: int) -> int:
            return sum(x.at.stride(axis) == 1 for x in tensors)

        def update(target: str, names: dict[int, str]) -> list[str]:
            def read(x: Load) -> str:
                axes = kept + summed
                places = [names.get(axis, f"i{axis}") for axis in axes]
                return f"{pointers.name(x, own)}[{_index(places, [x.at.stride(axis) for axis in axes])}]"

            body = _Body()
            value = f"{kind}({body.value(term, read)})"
            new = f"{target} + {value}" if step.how == "sum" else f"{step.how}({target}, {value})"
            return [*body.lines, f"{target} = {new};"]

        start = {"sum": "0", "larger": "-__builtin_inf()", "smaller": "__builtin_inf()"}[step.how]
        place = _index([f"i{axis}" for axis in kept], [step.out.at.stride(axis) for axis in kept])
        out = f"{pointers.name(step.out, own)}[{place}]"
        if kept and max(map(near, kept)) >= max(map(near, summed), default=0):
            lane = max(kept, key=near)
            size, others = shape[lane], [axis for axis in kept if axis != lane]
            every = f"for (long i{lane} = 0; i{lane} < {size}; i{lane}++)"
            total = f"total[i{lane}]"
            inner = _nest(
                [(axis, shape[axis]) for axis in summed],
                [f"#pragma GCC ivdep\n{every} {{", *update(total, {}), "}"],
                apart=False,
            )
            body = [
                f"{kind} total[{size}];",
                f"{every} {total} = {start};",
                *inner,
                f"{every} {out} = {total};",
            ]
            self._call(_nest([(axis, shape[axis]) for axis in others], body, apart=False), pointers)
            return
        body = [f"{kind} total = {start};"]
        if summed:
            lane = max(summed, key=near)
            others = [(axis, shape[axis]) for axis in summed if axis != lane]
            body += _nest(others, _lanes(lane, shape[lane], kind, start, step.how, update), apart=False)
        else:
            body += update("total", {})
        self._call(
            _nest([(axis, shape[axis]) for axis in kept], [*body, f"{out} = total;"], apart=False), pointers
        )

    def _turn(self, step: Step) -> None:
        (x,) = step.reads()
        *_, high, wide = x.at.shape
        own, sizes = step.out.memory.by_task, f"{wide}, {high}, {x.at.stride(-1)}, {wide}"
        self._calls.append(
            f"transpose<{NAMES[x.dtype]}, {sizes}>({_pointer(x, own)}, {_pointer(step.out, own)});"
        )

    def _product(self, step: Step) -> None:
        p, own = step.product, step.out.memory.by_task
        assert p is not None
        (m, n, k), first = p.sizes, str(not step.adds).lower()
        numbers = [m, k, p.strides[0]] if p.dots else [m, n, k, *p.strides]
        types = ", ".join([NAMES[step.out.dtype], *map(str, numbers), first])
        pointers = ", ".join(_pointer(x, own) for x in (p.left, p.right, step.out))
        self._calls.append(f"{'dots' if p.dots else 'multiply'}<{types}>({pointers});")

    def _look_up(self, step: Step) -> None:
        """An index out of range, which eager mode refuses, gives NaN: no wrong number passes unseen."""
        index, (axis,) = step.index, step.axes
        assert index is not None
        assert step.term is not None
        own = step.out.memory.by_task
        axes = [a for a in range(int(own), index.at.ndim) if index.at.shape[a] > 1 or a == axis]
        pointers, body, kind = _Pointers(), _Body(), NAMES[step.out.dtype]

        def read(x: Load, at: str | None = None) -> str:
            places = [at if at is not None and a == axis else f"i{a}" for a in axes]
            return f"{pointers.name(x, own)}[{_index(places, [x.at.stride(a) for a in axes])}]"

        gathers = step.kind == "gather"
        table = step.term if gathers else step.out
        assert isinstance(table, Load)
        body.lines += [
            f"const int64_t at = {read(index)};",
            f"const bool sound = at >= 0 && at < {table.at.shape[axis]};",
        ]
        nothing = f'{kind}(__builtin_nan(""))'
        if gathers:
            body.lines.append(f"{read(step.out)} = sound ? {read(table, 'at')} : {nothing};")
        else:
            value = body.value(step.term, read)
            sets = "=" if step.kind == "scatter" else "+="
            body.lines.append(f"{read(table, '(sound ? at : 0)')} {sets} sound ? {value} : {nothing};")
        self._call(_nest([(a, index.at.shape[a]) for a in axes], body.lines, apart=False), pointers)


class _Pointers:
    """The tensors that a function is given."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, str]] = {}

    def name(self, x: Load, by_task: bool) -> str:
        """The parameter for a tensor."""
        text = _pointer(x, by_task)
        return self._names.setdefault(text, (f"p{len(self._names)}", NAMES[x.dtype]))[0]

    @property
    def parameters(self) -> str:
        return ", ".join(f"{kind} *__restrict {name}" for name, kind in self._names.values())

    @property
    def arguments(self) -> str:
        return ", ".join(self._names)


class _Body:
    """Statements for one number of a loop; what was computed before has a name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._known: dict[str, str] = {}

    def value(self, term: Term, read: Callable[[Load], str]) -> str:
        """The name of the term's value."""
        done: dict[int, str] = {}

        def name(part: Term) -> str:
            if id(part) not in done:
                if isinstance(part, Load):
                    text = read(part)
                elif isinstance(part, Number):
                    text = literal(part.value, part.dtype)
                else:
                    text = operation(part)
                done[id(part)] = self._named(text, NAMES[part.dtype])
            return done[id(part)]

        def operation(part: Op) -> str:
            names = []
            for arg, dtype in zip(part.args, part.among, strict=True):
                text = literal(arg.value, dtype) if isinstance(arg, Number) else name(arg)
                names.append(
                    text if arg.dtype is dtype or isinstance(arg, Number) else f"{NAMES[dtype]}({text})"
                )
            return part.text.format(*names)

        return name(term)

    def assign(self, target: str, value: str, kind: str) -> None:
        self.lines.append(f"{target} = {kind}({value});")
        self._known[target] = value

    def _named(self, text: str, kind: str) -> str:
        if text not in self._known:
            self._known[text] = f"v{len(self.lines)}"
            self.lines.append(f"const {kind} {self._known[text]} = {text};")
        return self._known[text]


def _shape(step: Step) -> list[int]:
    """The shape of what is reduced: that of its tensors."""
    assert step.term is not None
    return list(next(loads(step.term)).at.shape)


def _pointer(x: Load, by_task: bool) -> str:
    """Where a tensor of the task ``t`` starts; ``by_task`` if its first axis is the tasks'."""
    root, start = x.memory.root()
    start += x.at.storage_offset()
    base = root.name
    if root.kind == "scratch":
        base = f"reinterpret_cast<{NAMES[x.dtype]} *>(scratch + {root.place})"
    step = root.step if root.by_task else (x.at.stride(0) if by_task and x.at.ndim else 0)
    return " + ".join([base, *([f"t * {step}"] if step else []), *([str(start)] if start else [])])


def _index(names: Sequence[str], strides: Sequence[int]) -> str:
    return (
        " + ".join(f"{name} * {stride}" for name, stride in zip(names, strides, strict=True) if stride) or "0"
    )


def _nest(loops: Iterable[tuple[int, int]], body: Sequence[str], apart: bool = True) -> list[str]:
    """Loops around a body; the innermost ones' numbers are independent if ``apart``."""
    heads = [f"for (long i{name} = 0; i{name} < {size}; i{name}++)" for name, size in loops]
    if heads and apart:
        heads[-1] = "#pragma GCC ivdep\n" + heads[-1]
    return [*heads, "{", *body, "}"]


def _lanes(axis: int, size: int, kind: str, start: str, how: str, update: Callable) -> list[str]:
    """One long axis in as many sums side by side as it has room for, which are then folded."""
    width = min(LANES, 1 << (size.bit_length() - 1))
    whole = size // width * width
    every = f"for (long j = 0; j < {width}; j++)"
    joined = "{0} + {1}" if how == "sum" else how + "({0}, {1})"
    fold = joined.format("part[j]", "part[j + w]")
    return [
        f"{kind} part[{width}];",
        f"{every} part[j] = {start};",
        f"for (long k = 0; k < {whole}; k += {width})",
        f"#pragma GCC ivdep\n{every} {{", *update("part[j]", {axis: "(k + j)"}), "}",
        f"for (long w = {width // 2}; w > 0; w /= 2)",
        f"for (long j = 0; j < w; j++) part[j] = {fold};",
        f"total = {joined.format('total', 'part[0]')};",
        f"for (long i{axis} = {whole}; i{axis} < {size}; i{axis}++) {{", *update("total", {}), "}",
    ]  # fmt: skip
