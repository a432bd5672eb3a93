"""The arrows between the packages point one way, and modules stay short enough to be read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for d in ("bench", "methods", "analysis", "slurm") for p in (ROOT / d).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    packages = ("bench", "methods", "analysis", "slurm")
    return {name for name in imports(path) if name.split(".")[0] in packages}


def allowed(name: str, *prefixes: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts
    contract = ("bench.api", "bench.registry", "bench.errors")
    for name in ours(path) - {"bench", "methods", "analysis"}:
        if folder[:2] == ("methods", "libraries"):
            assert allowed(name, "methods", "bench.native", "bench.exactly", *contract), name
        elif folder[0] == "methods":
            assert allowed(name, "methods", *contract), name
        elif folder[:2] == ("bench", "problems"):
            assert allowed(name, "bench.problems", "bench.data", *contract), name
        elif folder[0] == "analysis":
            assert allowed(name, "analysis", "bench.record", "bench.spec", "bench.order", "bench.errors"), (
                name
            )
        elif folder[0] == "slurm":
            assert allowed(name, "slurm", "bench"), name
            assert not allowed(name, "bench.cli"), name
        elif folder[:2] != ("bench", "cli"):
            assert allowed(name, "bench"), name
            assert not allowed(name, "bench.cli"), name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_can_be_read_in_one_go(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    is_method = path.relative_to(ROOT).parts[0] == "methods"
    assert lines <= (80 if is_method else 300)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.relative_to(ROOT).parts[0] == "methods"], ids=lambda p: p.name
)
def test_methods_have_no_files_clocks_or_randomness(path: Path) -> None:
    forbidden = {"time", "random", "os", "pathlib", "io", "numpy.random", "pickle"}
    assert not imports(path) & forbidden
    assert "manual_seed" not in path.read_text()


def test_one_vmap_and_no_pickle() -> None:
    vmaps = [p for p in MODULES if "torch.vmap(" in p.read_text() or "func.vmap(" in p.read_text()]
    assert vmaps == [ROOT / "bench" / "bilevel.py"]
    for path in MODULES:
        assert not imports(path) & {"pickle", "cloudpickle", "dill", "joblib"}, path


def test_no_circle_of_imports() -> None:
    """Within ``bench``, modules import each other in one direction only; type-only imports count too."""
    names = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in MODULES
    }
    arrows = {
        name: {other for other in imports(path) if other in names} - {name} for name, path in names.items()
    }
    for name in arrows:  # a package's __init__ re-exports its own modules
        arrows[name] = {o for o in arrows[name] if not name.startswith(o + ".")}
    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in finished:
            for other in arrows[name]:
                visit(other, (*way, name))
            finished.add(name)

    for name in names:
        visit(name, ())
