"""Words that reports and figures share."""

from collections.abc import Sequence

from afdjax.report.quantities import per_second, shown_rate, significant, suited_unit


CIRCUITS = {
    "attention": "the slowest attention worker",
    "round-trip": "a microbatch's round trip",
    "communication": "the link",
    "ffn": "the FFN",
}
"""What a cycle is decided by, by the names of documents."""


def throughput(rate: int | float, unit: str, interval: Sequence[int | float] | None = None) -> str:
    """Tokens per time and instance, a rate given per `unit` of time, with its 95 % interval where one is known."""
    ends = "" if interval is None else " to ".join(significant(per_second(end, unit)[0], 4) for end in interval)
    return f"{shown_rate(rate, unit, digits=4)} per instance{f' (95 %: {ends})' if ends else ''}"


def coefficient_unit(values: Sequence[int | float], unit: str) -> tuple[str, float]:
    """The unit that suits the largest of these coefficients, given in `unit` ("us per token"), and the factor to it."""
    time, *per = unit.split(" ", 1)
    suited, factor = suited_unit(values, time)
    return " ".join([suited, *per]), factor


def listed(texts: Sequence[str], last: str = "and") -> str:
    """One, two and three."""
    return f" {last} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
