"""One property, one `Check`; a plugin that raises fails the check and the battery goes on."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

from torch import Tensor

from bench.registry import build, describe


@dataclass(frozen=True)
class Check:
    """One property of one plugin. ``detail`` says what was seen."""

    name: str
    passed: bool
    detail: str


class Battery:
    """Collects checks; whatever a plugin raises becomes a failed one."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(self, name: str, passed: bool, detail: str = "") -> None:
        self.checks.append(Check(name, passed, detail))

    def attempt(self, name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; the battery reports it
            self.add(name, False, f"{type(error).__name__}: {error}")
            return None

    def close(self, name: str, got: Tensor, wanted: Tensor, tolerance: float) -> None:
        error = ((got - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()
        self.add(name, error <= tolerance, f"relative error {error:.1e}, allowed {tolerance:.0e}")

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
