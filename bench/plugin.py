"""What every plugin is: a frozen dataclass whose fields are its hyper-parameters and its parts."""

from dataclasses import dataclass
from typing import ClassVar


class Declined(Exception):
    """Raised by a plugin that cannot serve this cell; the reason is stored in the record and shown."""


class InvalidValueError(ValueError):
    """A hyper-parameter with an impossible value: says which, what was got and what is allowed."""


@dataclass(frozen=True)
class Resources:
    """What a cell with this plugin needs of a cluster, where the launcher cannot know or measure it.

    ``gpus`` for a worker (cells with device "cuda" get the profile's number unasked); ``memory_gb`` that a
    worker holds at its peak, instead of the prediction; ``minutes`` that a cell takes, as long as no like
    cell is done. None leaves it to the launcher. A cell gets the most that any of its plugins asks for;
    `metabench run` heeds none of it.
    """

    gpus: int = 0
    memory_gb: float | None = None
    minutes: float | None = None


class Plugin:
    """The base of everything that is registered by name.

    ``needs`` lists the packages beyond metabench's own as requirements ("torchopt>=0.7"): where one is
    missing the plugin is listed as unavailable, with the command ``install`` where `pip install` of the
    requirements does not do, and its cells are declined. ``stochastic`` says that it draws
    from `Bilevel.noise`, so that its result varies with the cell's seed even on the same tasks. ``resources``
    is what `metabench submit` is to ask for. ``later`` names fields that came after there were records: at
    their default a description leaves them out, so that cells keep their ids, and tasks are drawn as if they
    were not there.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str | None] = None
    stochastic: ClassVar[bool] = False
    resources: ClassVar[Resources] = Resources()
    later: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def lacks(cls) -> str | None:
        """What this machine lacks for it other than packages, and what to do; None where it lacks nothing."""
        return None

    def known_fault(self) -> str | None:
        """A fault of the code behind it that is run as it is, None where none is known.

        The battery then expects its promised accuracy to be missed, and fails where it is not.
        """
        return None


def require(ok: bool, field: str, got: object, allowed: str) -> None:
    """Check one hyper-parameter in ``__post_init__``; raise `InvalidValueError` if it is not ``ok``."""
    if not ok:
        raise InvalidValueError(f"{field} = {got!r} is not possible; allowed: {allowed}")
