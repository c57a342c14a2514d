"""Times and rates in the unit that a person would use: 31.0 ms, not 3.102e+04 us."""

import math


SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Units of time that a clock has, longest first; other labels (the paper's `cycle`) are kept as they are."""


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits: written out where that is short, in powers of ten elsewhere.

    >>> significant(31.02), significant(1234.5), significant(0.01), significant(1e12)
    ('31.0', '1,230', '0.0100', '1.00e+12')
    """
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    power = math.floor(math.log10(abs(rounded)))
    if not -4 <= power < 9:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(digits - 1 - power, 0)}f}"


def shown_time(value: float, unit: str, digits: int = 3) -> str:
    """A time given in `unit` with the unit that suits its size.

    >>> shown_time(31_020.0, "us"), shown_time(0.25, "s"), shown_time(309.5, "cycle")
    ('31.0 ms', '250 ms', '310 cycles')
    """
    if unit not in SECONDS:
        return f"{significant(value, digits)} {_many(unit)}"
    seconds = float(f"{value * SECONDS[unit]:.{digits - 1}e}")
    suited = next((name for name, size in SECONDS.items() if abs(seconds) >= size), "s" if seconds == 0.0 else "ns")
    return f"{significant(seconds / SECONDS[suited], digits)} {suited}"


def per_second(rate: float, unit: str) -> tuple[float, str]:
    """A rate given per `unit` of time, and what it is per: per second wherever the unit is a clock's.

    >>> per_second(0.5, "ms"), per_second(1.9, "cycle")
    ((500.0, 's'), (1.9, 'cycle'))
    """
    return (rate / SECONDS[unit], "s") if unit in SECONDS else (rate, unit)


def shown_rate(rate: float, unit: str, of: str = "tokens", digits: int = 3) -> str:
    """A rate given per `unit` of time as text.

    >>> shown_rate(0.0125, "us"), shown_rate(1.9, "cycle")
    ('12,500 tokens/s', '1.90 tokens/cycle')
    """
    value, per = per_second(rate, unit)
    return f"{significant(value, digits)} {of}/{per}"


def _many(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"
