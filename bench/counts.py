"""What a method costs on any hardware."""

from dataclasses import asdict, dataclass


@dataclass
class Counts:
    """Oracle calls per task: the hardware-free cost. A call on a batch of tasks counts once."""

    inner_values: int = 0
    inner_grads: int = 0
    inner_hvps: int = 0
    outer_values: int = 0
    outer_grads: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})

    def __mul__(self, times: int) -> "Counts":
        return Counts(**{name: times * number for name, number in asdict(self).items()})

    def add(self, **calls: int) -> None:
        """Count calls by name: ``add(inner_grads=2)``."""
        for name, number in calls.items():
            setattr(self, name, getattr(self, name) + number)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
