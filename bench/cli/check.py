"""`metabench check` and `metabench data get`."""

from dataclasses import asdict

from bench import data, registry
from bench.cli.text import columns, say, say_json
from bench.errors import UsageError, unknown
from bench.testing import CHECKS


def check_plugins(targets: list[str], json: bool) -> int:
    """Run the conformance battery on ``targets``. Returns 0 if every check passed, else 1.

    Prints every check of a single plugin, of several those that failed.
    """
    wanted = dict.fromkeys(pair for target in targets for pair in _resolve(target))
    failed = 0
    collected = {}
    for kind, name in wanted:
        checks = CHECKS[kind](name)
        bad = sum(not one.passed for one in checks)
        failed += bad
        collected[f"{kind}:{name}"] = [asdict(one) for one in checks]
        if not json:
            outcome = f"{bad} of {len(checks)} FAILED" if bad else f"all {len(checks)} passed"
            say(f"{kind}:{name}  {outcome}", style="bold red" if bad else "bold")
            lines = columns(("ok" if one.passed else "FAILED", one.name, one.detail) for one in checks)
            for one, line in zip(checks, lines, strict=True):
                if len(wanted) == 1 or not one.passed:
                    say(line, style="" if one.passed else "red")
    if json:
        say_json(collected)
    elif len(wanted) > 1:
        say(f"{len(wanted)} plugins, {failed} failed checks", style="bold")
    return 1 if failed else 0


def get_data(name: str) -> None:
    """Bring a data set onto this machine and say where it lies."""
    say(f"{name} lies in {data.get(name)}")


def _resolve(target: str) -> list[tuple[str, str]]:
    """``target`` as (kind, name) pairs; a bare name is a method's."""
    kind, _, name = target.rpartition(":")
    if target == "all":
        return [(kind, name) for kind in CHECKS for name in registry.names(kind)]
    kind = kind or "method"
    if kind not in CHECKS:
        raise unknown("kind to check", kind, CHECKS)
    if name == "all":
        return [(kind, name) for name in registry.names(kind)]
    if name in registry.names(kind):
        return [(kind, name)]
    elsewhere = [other for other in CHECKS if name in registry.names(other)]
    if elsewhere:
        raise UsageError(f"'{name}' is no {kind}; write {elsewhere[0]}:{name}")
    raise unknown(kind, name, registry.names(kind))
