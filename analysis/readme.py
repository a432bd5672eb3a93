"""The numbers of the pages on the reference records, and the table of libraries, from these records.

`python -m analysis.readme` writes all of them.

A page marks each place with a pair of comments, `begin: NAME` and `end: NAME`; what stands between them is
computed here, never typed. A test compares the two.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import captions, peers, scaling, table, units
from analysis.figures.estimators import front
from analysis.labels import pretty
from analysis.quotes import REFERENCE, group_section, not_yet, picture, rounding_section
from bench.record import Store

OURS = ("rounding",)  # of the sections, those of the README; the others are of the page in results/
PAGES = (Path("README.md"), Path("results/README.md"))
MEMORY = ["tensor_bytes.peak", "resident.peak_bytes", "resident.growth_bytes"]
PROBLEMS = ("linear_regression", "sinusoid", "glyphs")  # of the studies of many methods


def sections(results: Path) -> dict[str, str]:
    """Marker name -> Markdown, from the stored records of the reference studies."""
    studies = ("accuracy_vs_steps", "cost_vs_steps", "estimators", "libraries", "peers", "scaling")
    accuracy, cost, estimators, libraries, speed, growth = (
        table.frame(Store(results, study).records()) for study in studies
    )
    return {
        "accuracy": textwrap.fill(accuracy_sentence(accuracy), 110),
        "errors": error_table(accuracy),
        "cost": textwrap.fill(cost_sentence(cost), 110),
        "memory": memory_table(cost, "sinusoid", (1, 10, 50, 100)),
        "memory-omniglot": memory_table(cost, "omniglot", (1, 5, 10, 20)),
        "estimators": textwrap.fill(estimator_sentences(estimators), 110),
        "front": front_table(estimators),
        "libraries": library_table(libraries, "sinusoid"),
        "peers": peers_section(speed),
        "scaling": scaling_section(growth),
        "questions": group_section(results, "Where the two methods differ"),
        "numerical": group_section(results, "Is it numerical?"),
        "rounding": rounding_section(results),
    }


def update(page: Path, found: dict[str, str]) -> str:
    """The page's text with every place of ``found`` filled; raises `ValueError` if a marker is missing."""
    text = page.read_text(encoding="utf-8")
    for name, content in found.items():
        pattern = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        text, places = pattern.subn(lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text)
        if places != 1:
            raise ValueError(f"{page} has {places} places marked 'begin: {name}'; it needs one")
    return text


def quadratic(frame: pd.DataFrame, condition: float) -> pd.DataFrame:
    """The rows of linear regression at one condition number."""
    return frame[(frame["problem.name"] == "linear_regression") & (frame["problem.condition"] == condition)]


def curve(frame: pd.DataFrame, method: str) -> pd.Series:
    """Median relative error to the exact implicit gradient of one method, by number of inner steps."""
    return frame[frame["method"] == method].groupby("steps")["error.implicit"].median()


def median_error(frame: pd.DataFrame, method: str, steps: int) -> float:
    """Median over tasks of the relative error to the exact implicit gradient."""
    rows = frame[(frame["method"] == method) & (frame["steps"] == steps)]
    if rows.empty:
        raise ValueError(f"no records of {method} at {steps} inner steps")
    return float(rows["error.implicit"].median())


def accuracy_sentence(frame: pd.DataFrame) -> str:
    """What the accuracy figure says, for condition number 6 and for the kinks of ReLU."""
    six = quadratic(frame, 6.0)
    error = {m: median_error(six, m, 100) for m in ("FOMAML", "iMAML, CG 1", "iMAML, CG 2", "iMAML, CG 5")}
    cg, maml = (curve(six, name) for name in ("iMAML, CG 5", "MAML, adjoint"))
    last = int(cg[cg <= maml].index.max())
    relu = frame[(frame["problem.name"] == "sinusoid") & (frame["problem.network.activation"] == "relu")]
    tasks = relu.drop_duplicates(["seed", "task"])
    kinked = tasks["missing.implicit"].fillna("").str.startswith("kink").sum()
    return (
        f"At condition number 6, iMAML with 5 CG iterations is at least as close to the implicit gradient as "
        f"exact MAML up to {last} inner steps ({units.digits(cg[last], 3)} against "
        f"{units.digits(maml[last], 3)}) and then stops at a floor of "
        f"{units.digits(error['iMAML, CG 5'])}, which more inner steps do not lower; 2 iterations stop at "
        f"{units.digits(error['iMAML, CG 2'])}, and a single one ({units.digits(error['iMAML, CG 1'])}) is "
        f"{'worse' if error['iMAML, CG 1'] > error['FOMAML'] else 'better'} than first-order MAML "
        f"({units.digits(error['FOMAML'])}). With ReLU, {kinked} of {len(tasks)} sinusoid tasks have no "
        f"implicit gradient at all: their inner minimiser lies at a kink."
    )


def error_table(frame: pd.DataFrame) -> str:
    """Median relative error to the implicit gradient on the quadratic of condition number 6."""
    six = quadratic(frame, 6.0)
    steps = [1, 5, 20, 100]
    lines = ["| relative error after | " + " | ".join(f"{k} steps" for k in steps) + " |"]
    lines.append("|---" * (len(steps) + 1) + "|")
    for method in six["method"].unique():
        if method != "Reptile":  # its length is arbitrary
            errors = (units.digits(median_error(six, method, k)) for k in steps)
            lines.append(f"| {method} | " + " | ".join(errors) + " |")
    return "\n".join(lines)


def peaks(frame: pd.DataFrame, problem: str) -> pd.DataFrame:
    """Peak tensor bytes, one row per method, one column per number of inner steps."""
    rows = table.cells(frame[frame["problem.name"] == problem])
    order = list(dict.fromkeys(rows["method"]))
    return rows.pivot_table(index="method", columns="steps", values="tensor_bytes.peak").reindex(order)


def memory_table(frame: pd.DataFrame, problem: str, steps: Sequence[int]) -> str:
    """Peak tensor bytes against inner steps, and the growth per step in iterates (T x P float32 numbers)."""
    found = peaks(frame, problem)
    rows = frame[frame["problem.name"] == problem]
    iterate = float(rows["n_tasks"].iloc[0] * rows["tensor_bytes.n_params"].dropna().iloc[0] * 4)
    first, last = steps[-2:]
    header = "| peak tensor MiB | " + " | ".join(f"K = {k}" for k in steps)
    lines = [header + " | growth per step, in iterates |", "|---" * (len(steps) + 2) + "|"]
    for method, row in found.iterrows():
        growth = (row[last] - row[first]) / (last - first) / iterate
        values = " | ".join(units.digits(row[k] / 2**20, 3) for k in steps)
        lines.append(f"| {method} | {values} | {units.digits(growth, 3)} |")
    return "\n".join(lines)


def cost_sentence(frame: pd.DataFrame) -> str:
    """What the cost figure says on the Omniglot-shaped problem, at its largest number of steps."""
    rows = table.cells(frame[frame["problem.name"] == "omniglot"])
    steps = int(rows["steps"].max())
    last = rows[rows["steps"] == steps].set_index("method")
    memory, ratio = last["tensor_bytes.peak"], last["time.ratio"]

    def of(method: str) -> str:
        return (
            f"{units.nbytes(memory[method])} and {units.digits(ratio[method])} times first-order MAML's time"
        )

    return (
        f"At {steps} inner steps of the convolutional network on Omniglot, 20-way 5-shot, exact MAML takes "
        f"{of('MAML, adjoint')} by the adjoint sweep, {of('MAML, unrolled')} unrolled; iMAML with 5 CG "
        f"iterations takes {of('iMAML, CG 5')}."
    )


def medians(frame: pd.DataFrame, problem: str) -> pd.DataFrame:
    """Median errors, and medians over cells of costs, of the cells of one problem that ended well."""
    rows = frame[(frame["problem.name"] == problem) & (frame["status"] == "ok")]
    order = list(dict.fromkeys(rows["method"]))
    errors = rows.groupby("method")[["error.maml", "error.implicit"]].median()
    costs = ["time.median_s", "time.relative", *MEMORY]
    return errors.join(table.cells(rows).groupby("method")[costs].median()).reindex(order)


def estimator_sentences(frame: pd.DataFrame) -> str:
    """What the estimators' figures say, in numbers that hold for the records."""
    found = {name: medians(frame, name) for name in PROBLEMS}
    for rows in found.values():
        rows["memory"] = rows["tensor_bytes.peak"] / float(rows["tensor_bytes.peak"]["MAML, adjoint"])

    def over(method: str, column: str = "error.implicit") -> str:
        values = [float(rows[column][method]) for rows in found.values()]
        low, high = units.digits(min(values)), units.digits(max(values))
        return low if low == high else f"{low} to {high}"

    def time(method: str) -> str:
        return over(method, "time.relative")

    # (FG)^2U with 10 directions: the variance is (P - 1) / 10 times the squared gradient.
    sizes = frame.groupby("problem.name")["tensor_bytes.n_params"].median()
    spread = [float(((sizes[name] - 1) / 10) ** 0.5) for name in PROBLEMS]
    costs = [rows.loc[["MAML, mixed mode", "MAML, adjoint"]] for rows in found.values()]
    more = [(c.iloc[0] > c.iloc[1])[["time.relative", "memory"]].all() for c in costs]
    verdict = "loses" if all(more) else "does not always lose"
    return (
        f"Over the three problems, the relative error to the implicit gradient of iMAML with 5 CG iterations "
        f"is {over('iMAML, CG 5')} at {time('iMAML, CG 5')} times first-order MAML's time; with the "
        f"Gauss-Newton curvature it is {over('iMAML, CG 5, Gauss-Newton')}, with MINRES "
        f"{over('iMAML, MINRES 5')}, on the normal equations {over('iMAML, normal CG 5')}, by 5 terms of the "
        f"Neumann series {over('iMAML, Neumann 5')}. Without Hessian products, symmetric differences of "
        f"inner solves reach {over('FO-B-MAML, symmetric')} at {time('FO-B-MAML, symmetric')} times that "
        f"time, forward ones {over('FO-B-MAML, forward')} at {time('FO-B-MAML, forward')}, both in less "
        f"memory than a Hessian product takes ({over('FO-B-MAML, symmetric', 'memory')} and "
        f"{over('FO-B-MAML, forward', 'memory')} times the adjoint sweep's, iMAML with CG "
        f"{over('iMAML, CG 5', 'memory')}). One-step differentiation has "
        f"{over('one-step')}: of gradient descent it is first-order MAML at another length. The binomial "
        f"expansion wants the product of step, curvature and K to be small: at order 2 its error to exact "
        f"MAML is {over('MAML, binomial, order 2', 'error.maml')} where first-order MAML has "
        f"{over('FOMAML', 'error.maml')}. Ten random directions have "
        f"{over('forward gradient', 'error.maml')}; their variance says {units.digits(min(spread))} to "
        f"{units.digits(max(spread))}. On this CPU mixed mode {verdict}: "
        f"{time('MAML, mixed mode')} times first-order MAML's time and "
        f"{over('MAML, mixed mode', 'memory')} times the adjoint sweep's memory; the adjoint sweep takes "
        f"{time('MAML, adjoint')} times first-order MAML's time."
    )


def front_table(frame: pd.DataFrame) -> str:
    """The Pareto front of time and error to the implicit gradient, for each problem."""
    lines = ["| problem | method | error | time / FOMAML's |", "|---|---|---|---|"]
    for problem in PROBLEMS:
        rows = medians(frame, problem).dropna(subset=["time.relative", "error.implicit"])
        best = rows.iloc[front(rows["time.relative"], rows["error.implicit"])]
        for method, row in best.iterrows():
            error, time = (units.digits(row[name]) for name in ("error.implicit", "time.relative"))
            lines.append(f"| {pretty(problem)} | {method} | {error} | {time} |")
    return "\n".join(lines)


def library_table(frame: pd.DataFrame, problem: str) -> str:
    """Every library's method on one problem: errors to both references, seconds, peaks."""
    names = dict(zip(frame["method"], frame["method.name"], strict=True))
    heads = ("library", "method", "error to exact MAML", "error to implicit", "ms", "times FOMAML")
    heads += ("peak tensor MiB", "resident peak, MiB", "grown by")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, row in medians(frame, problem).iterrows():
        library = names[str(method)].partition("-")[2]
        errors = [units.digits(row[f"error.{name}"]) for name in ("maml", "implicit")]
        times = [units.digits(1e3 * row["time.median_s"], 3), units.digits(row["time.relative"], 3)]
        peaks = [row[name] / 2**20 for name in MEMORY]
        values = [units.digits(peak, 3) if pd.notna(peak) else "not seen" for peak in peaks]
        cells = [library or "metabench", str(method), *errors, *times, *values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peers_section(frame: pd.DataFrame) -> str:
    """Both tables of `peers`, and its figures."""
    if frame.empty:
        return not_yet("peers")
    figures = [
        picture("peers", i, f"Time, memory and error of every library, {problem}")
        for i, problem in enumerate(frame["problem"].unique())
    ]
    return "\n\n".join([peers.ratio_table(frame), peers.resource_table(frame), *figures])


def scaling_section(frame: pd.DataFrame) -> str:
    """The exponents in words, and the figure."""
    if frame.empty:
        return not_yet("scaling")
    figure = picture("scaling", 0, "Time and memory against K, tasks, parameters and CG iterations")
    return f"{scaling.exponent_table(frame)}\n\n{figure}"


def libraries_page(results: Path) -> str:
    """The table of all problems, for the folder of the study."""
    frame = table.frame(Store(results, "libraries").records())
    parts = ["# Other libraries next to ours", captions.numbers(frame) + "."]
    for problem in PROBLEMS:
        parts += [f"## {pretty(problem)}", library_table(frame, problem)]
    return "\n\n".join(parts) + "\n"


def updated(root: Path) -> dict[Path, str]:
    """The pages under ``root``, with what belongs there."""
    found = sections(root / REFERENCE)
    ours = {name: found.pop(name) for name in OURS}
    return {page: update(root / page, part) for page, part in zip(PAGES, (ours, found), strict=True)}


if __name__ == "__main__":
    for page, text in updated(Path()).items():
        page.write_text(text, encoding="utf-8")
    (REFERENCE / "libraries" / "table.md").write_text(libraries_page(REFERENCE), encoding="utf-8")
