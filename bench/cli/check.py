"""`metabench check` and `metabench data get`."""

from collections import Counter
from dataclasses import asdict

from bench import data, registry
from bench.cli.text import columns, say, say_json
from bench.errors import UsageError, unknown
from bench.testing import CHECKS, Check

STYLES = {"FAILED": "red", "declined": "yellow", "passed": ""}  # the worst first


def check_plugins(targets: list[str], everything: bool, json: bool) -> int:
    """Run the conformance battery on ``targets``, or on ``everything``: 0 if all passed, 1 if a check failed.

    A plugin that declines here (a problem whose data are missing) has neither passed nor failed: it is shown,
    and with nothing but such plugins the code is 3. Prints every check of a single plugin, of several those
    that did not pass.
    """
    if everything == bool(targets):
        raise UsageError("name what to check (such as imaml or linear:dense), or give --all, not both")
    if everything:
        targets = [f"{kind}:all" for kind in CHECKS]
    wanted = dict.fromkeys(pair for target in targets for pair in _resolve(target))
    outcomes: Counter[str] = Counter()
    collected = {}
    for kind, name in wanted:
        checks = CHECKS[kind](name)
        results = [_result(check) for check in checks]
        counts = Counter(results)
        worst = next(result for result in STYLES if counts[result])
        outcomes[worst] += 1
        collected[f"{kind}:{name}"] = [
            asdict(check) | {"result": result} for check, result in zip(checks, results, strict=True)
        ]
        if json:
            continue
        summary = ", ".join(f"{counts[result]} {result}" for result in STYLES if counts[result])
        say(f"{kind}:{name}  {summary}", f"bold {STYLES[worst]}")
        lines = columns((r, check.name, check.detail) for r, check in zip(results, checks, strict=True))
        for result, line in zip(results, lines, strict=True):
            if len(wanted) == 1 or result != "passed":
                say(line, STYLES[result])
    if json:
        say_json(collected)
    elif len(wanted) > 1:
        say(
            f"{len(wanted)} plugins: " + ", ".join(f"{outcomes[r]} {r}" for r in STYLES if outcomes[r]),
            "bold",
        )
    if outcomes["FAILED"]:
        return 1
    return 0 if outcomes["passed"] else 3


def _result(check: Check) -> str:
    if check.passed:
        return "passed"
    return "declined" if check.declined else "FAILED"


def get_data(name: str) -> None:
    """Bring a data set onto this machine and say where it lies."""
    say(f"{name} lies in {data.get(name)}")


def _resolve(target: str) -> list[tuple[str, str]]:
    """``target`` as (kind, name) pairs; a bare name is a method's."""
    kind, _, name = target.rpartition(":")
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
