"""One property, one `Check`; a plugin that raises fails the check and the battery goes on."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from torch import Tensor

from bench.api import Declined
from bench.registry import build, describe

P = ParamSpec("P")


@dataclass(frozen=True)
class Check:
    """One property of one plugin. ``detail`` says what was seen."""

    name: str
    passed: bool
    detail: str
    declined: bool = False  # the plugin cannot run here and says why: neither passed nor failed


class Battery:
    """Collects checks; whatever a plugin raises becomes a failed one.

    With a known ``fault`` the accuracy that it spoils passes, with the fault in the detail, and accuracy that
    it never spoils is a failure of its own: the code behind the plugin was mended.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.fault: str | None = None
        self._accurate: list[bool] = []  # whether each promised accuracy was met

    def add(self, name: str, passed: bool, detail: str = "") -> None:
        self.checks.append(Check(name, passed, detail))

    def may_be_spoilt(self, name: str, passed: bool, detail: str = "") -> None:
        """A check that the known fault may fail."""
        if self.fault is not None and not passed:
            passed, detail = True, f"known fault: {self.fault}; {detail or 'failed'}"
        self.add(name, passed, detail)

    def promised(self, name: str, kept: bool, detail: str) -> None:
        """A check of an accuracy that the plugin promises."""
        self._accurate.append(kept)
        self.may_be_spoilt(name, kept, detail)

    def fault_shows(self) -> None:
        """To be called at the end: fails where every promise was kept in spite of the known fault."""
        if self.fault is not None and self._accurate:
            self.add("the known fault still shows", not all(self._accurate), self.fault)

    def attempt(self, name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; the battery reports it
            self.fail(name, error)
            return None

    def fail(self, name: str, error: Exception) -> None:
        if isinstance(error, Declined):
            self.checks.append(Check(name, False, str(error), declined=True))
        else:
            self.add(name, False, f"{type(error).__name__}: {error}")

    def close(
        self,
        name: str,
        got: Tensor,
        wanted: Tensor,
        tolerance: float,
        add: Callable[[str, bool, str], None] | None = None,
    ) -> None:
        """A check that two tensors agree, of the kind ``add``: `add`, `may_be_spoilt` or `promised`."""
        error = ((got - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()
        detail = f"relative error {error:.1e}, allowed {tolerance:.0e}"
        (add or self.add)(name, error <= tolerance, detail)

    def construct(self, kind: str, plugin: Any) -> Any:
        built = self.attempt(
            "can be built", lambda: build(kind, plugin) if isinstance(plugin, str | dict) else plugin
        )
        if built is None:
            return None
        table = self.attempt("can be described", lambda: describe(built))
        rebuilt = self.attempt("can be rebuilt from its description", lambda: build(kind, table))
        self.add("equal after describe and build", rebuilt == built, str(table))
        try:
            object.__getattribute__(built, "__setattr__")("no_such_field", 1)
        except FrozenInstanceError:
            self.add("frozen", True)
        else:
            self.add("frozen", False, "a field could be set")
        return built


def battery(body: Callable[Concatenate[Battery, P], None]) -> Callable[P, list[Check]]:
    """Make a check function of its body: an exception that gets out of it becomes a failed check."""

    @wraps(body)
    def check(*args: P.args, **kwargs: P.kwargs) -> list[Check]:
        run = Battery()
        try:
            body(run, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  as in `attempt`
            run.fail("runs to the end of the battery", error)
        return run.checks

    return check
