"""The same methods as other libraries compute them, run as they are."""

from methods.libraries.higher import MAMLHigher

__all__ = ["MAMLHigher"]
