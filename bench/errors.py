"""The one error for wrong input: what was got, what is allowed, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """Wrong input by the user; the command line prints it without a traceback and exits with 2.

    ``keys`` is the way to the faulty key in a study file, outermost first, where there is one.
    """

    def __init__(self, message: str, keys: tuple[str, ...] = ()):
        super().__init__(message)
        self.keys = keys


def unknown(what: str, got: str, allowed: Iterable[str], keys: tuple[str, ...] = ()) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    allowed = sorted(allowed)
    near = get_close_matches(got, allowed, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return UsageError(f"unknown {what} '{got}'{hint} Allowed: {', '.join(allowed) or 'none'}", keys)
