"""Numbers as people read them: times, bytes, errors, with their units and honest digits."""

import math

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def digits(value: float, n: int = 2) -> str:
    """``value`` with ``n`` significant digits, plain between 1e-3 and 1e5, else as 2.9e-5."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{n - 1}e}")
    if 1e-3 <= abs(rounded) < 1e5:
        places = max(0, n - 1 - math.floor(math.log10(abs(rounded))))
        return f"{rounded:.{places}f}"
    mantissa, exponent = f"{value:.{n - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def seconds(value: float, n: int = 3) -> str:
    """A duration in seconds as "1.23 ms"."""
    if not math.isfinite(value) or value == 0:
        return digits(value) if value else "0 s"
    scale, unit = next((one for one in _TIMES if abs(value) >= one[0]), _TIMES[-1])
    return f"{digits(value / scale, n)} {unit}"


def nbytes(value: float, n: int = 3) -> str:
    """A number of bytes as "1.5 MiB"; binary units."""
    if not math.isfinite(value):
        return digits(value)
    power = 0
    while abs(value) >= 1024 and power < len(_BYTES) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.0f} B" if power == 0 else f"{digits(value, n)} {_BYTES[power]}"


def ratio(value: float) -> str:
    """A quotient of two times, or a loss, with three digits."""
    return digits(value, 3)


def interval(middle: float, low: float, high: float, n: int = 2) -> str:
    """A number and its interval as "0.21 [0.18, 0.25]"; without one where ``low`` is NaN."""
    ends = "" if math.isnan(low) else f" [{digits(low, n)}, {digits(high, n)}]"
    return f"{digits(middle, n)}{ends}"


def many(n: int, what: str) -> str:
    """So many of what: "1 seed", "2,000 cells"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def share(value: float) -> str:
    """A share in per cent, to a tenth."""
    return f"{100 * value:.1f} %"


def cosine(value: float) -> str:
    """A cosine; its distance from 1 where that would round to nothing."""
    rest = 1 - value
    return f"1 - {digits(rest, 1)}" if 0 < rest < 5e-4 else f"{value:.3f}".replace("-0.000", "0.000")


def count(value: float) -> str:
    """A count, with thousands apart; a median may fall between two."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def plain(value: object) -> str:
    """A setting's value as a person would write it: 0.08, 6, 1e-12, float64."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:g}"
