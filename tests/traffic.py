"""Synthetic request logs with a known theta: alike, dependent, and drifting; many at once, in NumPy.

Lengths are lognormal or geometric whole numbers; prompt and decode of one kind of request do not depend on each other, so theta
is E[P] + E[D (D - 1)] / (2 E[D]) of the kind, and the kinds' average by decode steps. Each log comes with a tenth more requests:
what follows it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import signal, stats

import afdjax as afd


Lengths = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, int, int], Lengths]


def lognormal(normal: np.ndarray, median: float, sigma: float) -> np.ndarray:
    return np.maximum(np.rint(median * np.exp(sigma * normal)), 1.0)


def lognormal_moments(median: float, sigma: float) -> tuple[float, float]:
    """E[L] and E[L^2], summed over whole numbers."""
    numbers = np.arange(1.0, median * np.exp(7.0 * sigma) + 2.0)
    ends = np.concatenate([[0.0], stats.norm.cdf(np.log((numbers + 0.5) / median) / sigma)])
    mass = np.diff(ends)
    return float((mass * numbers).sum()), float((mass * numbers**2).sum())


def geometric_moments(mean: float) -> tuple[float, float]:
    return mean, 2.0 * mean**2 - mean


def theta_of(*kinds: tuple[float, tuple[float, float]]) -> float:
    """theta of equally frequent kinds, each with E[P] and (E[D], E[D^2])."""
    load = sum(prompt * first + (second - first) / 2.0 for prompt, (first, second) in kinds)
    return load / sum(first for _, (first, _) in kinds)


def normal(rng: np.random.Generator, logs: int, requests: int) -> np.ndarray:
    return rng.standard_normal((logs, requests))


def autoregressive(rng: np.random.Generator, logs: int, requests: int, memory: float) -> np.ndarray:
    """Standard normal numbers whose neighbours have the correlation `memory`."""
    steps = normal(rng, logs, requests) * np.sqrt(1.0 - memory**2)
    steps[:, 0] /= np.sqrt(1.0 - memory**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -memory], steps, axis=1))


def geometric(rng: np.random.Generator, logs: int, requests: int, mean: float) -> np.ndarray:
    return rng.geometric(1.0 / mean, (logs, requests)).astype(float)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A law of logs: how to draw (prompt, decode) of shape (logs, requests), theta where it has one, and over how many requests
    neighbours depend on each other."""

    draw: Draw
    theta: float | None
    memory: int = 1


def alike(prompt: float, decode: float) -> Traffic:
    """Independent lognormal lengths with these spreads."""
    theta = theta_of((lognormal_moments(800.0, prompt)[0], lognormal_moments(100.0, decode)))
    lengths = lambda rng, logs, requests: (
        lognormal(normal(rng, logs, requests), 800.0, prompt),
        lognormal(normal(rng, logs, requests), 100.0, decode),
    )
    return Traffic(lengths, theta)


def chained(memory: float) -> Traffic:
    """Lognormal lengths, each an autoregressive series on its logarithm."""
    lengths = lambda rng, logs, requests: (
        lognormal(autoregressive(rng, logs, requests, memory), 800.0, 0.8),
        lognormal(autoregressive(rng, logs, requests, memory), 100.0, 0.8),
    )
    theta = theta_of((lognormal_moments(800.0, 0.8)[0], lognormal_moments(100.0, 0.8)))
    return Traffic(lengths, theta, round((1.0 + memory) / (1.0 - memory)))


def bursts(stay: int) -> Traffic:
    """Long prompts with short answers, or short ones with long ones, for `stay` requests on average."""

    def lengths(rng: np.random.Generator, logs: int, requests: int) -> Lengths:
        switches = rng.random((logs, requests)) < 1.0 / stay
        switches[:, 0] = rng.random(logs) < 0.5
        long = np.cumsum(switches, axis=1) % 2 == 1
        one, other = normal(rng, logs, requests), normal(rng, logs, requests)
        prompt = np.where(long, lognormal(one, 2000.0, 0.6), lognormal(other, 500.0, 0.8))
        decode = np.where(long, geometric(rng, logs, requests, 30.0), geometric(rng, logs, requests, 200.0))
        return prompt, decode

    kinds = (
        (lognormal_moments(2000.0, 0.6)[0], geometric_moments(30.0)),
        (lognormal_moments(500.0, 0.8)[0], geometric_moments(200.0)),
    )
    return Traffic(lengths, theta_of(*kinds), stay)


def drifting(course: Callable[[np.random.Generator, int, np.ndarray], np.ndarray]) -> Traffic:
    """Prompts that are as many times longer as `course` says at each place in the log, 0 to 1, and after it, to 1.1."""

    def lengths(rng: np.random.Generator, logs: int, requests: int) -> Lengths:
        factor = course(rng, logs, np.linspace(0.0, 1.1, requests))
        prompt = lognormal(normal(rng, logs, requests) + np.log(factor) / 0.8, 800.0, 0.8)
        return prompt, geometric(rng, logs, requests, 100.0)

    return Traffic(lengths, None)


def ramp(rise: float) -> Traffic:
    """Longer by `rise` at the end of the log than at its start."""
    return drifting(lambda rng, logs, place: np.broadcast_to(1.0 + rise * place, (logs, len(place))))


def day(seen: float) -> Traffic:
    """A daily cycle of +-40 %, of which the log has the share `seen`, from any time of the day on."""
    return drifting(lambda rng, logs, place: 1.0 + 0.4 * np.sin(2.0 * np.pi * (rng.random((logs, 1)) + seen * place)))


def walk(spread: float) -> Traffic:
    """A random walk of the logarithm, whose end has this standard deviation."""
    return drifting(
        lambda rng, logs, place: np.exp(spread * np.cumsum(normal(rng, logs, len(place)), axis=1) / np.sqrt(len(place)))
    )


TRAFFIC = {
    "light, independent": alike(0.3, 0.3),
    "lognormal, independent": alike(0.8, 0.8),
    "heavy, independent": alike(1.2, 1.0),
    "autoregressive 0.5": chained(0.5),
    "autoregressive 0.9": chained(0.9),
    "autoregressive 0.99": chained(0.99),
    "bursts of 10": bursts(10),
    "bursts of 100": bursts(100),
    "bursts of 300": bursts(300),
    "ramp +10 %": ramp(0.1),
    "ramp +50 %": ramp(0.5),
    "0.3 of a day": day(0.3),
    "0.6 of a day": day(0.6),
    "two days": day(2.0),
    "random walk 10 %": walk(0.1),
    "random walk 50 %": walk(0.5),
}
"""Laws by name; those with a theta are stationary."""


def logs_of(traffic: Traffic, logs: int, requests: int, seed: int = 0) -> list[tuple[afd.Requests, float]]:
    """Logs in order of time, each with theta of the requests that follow it, a tenth as many."""
    drawn = traffic.draw(np.random.default_rng(seed), logs, requests + requests // 10)
    found = []
    for prompt, decode in zip(*drawn, strict=True):
        load = (decode * prompt + decode * (decode - 1.0) / 2.0)[requests:]
        log = afd.Requests(prompt[:requests], decode[:requests], time=np.arange(float(requests)))
        found.append((log, float(load.sum() / decode[requests:].sum())))
    return found
