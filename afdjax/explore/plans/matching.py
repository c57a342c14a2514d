"""Prefill replicas matched to the decode replicas that they feed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from afdjax.explore.plans.candidates import Candidates, times_within
from afdjax.explore.plans.choice import Choice
from afdjax.explore.plans.frontier import frontier_of
from afdjax.explore.plans.plan import ServingPlan
from afdjax.explore.plans.question import Question, Targets


class Match(NamedTuple):
    """Rows of a feeder and a user, how many of each, and what they give."""

    feeder: int
    user: int
    feeders: int
    users: int
    tokens_per_s: float


def match_of(question: Question, feeders: Choice, users: Choice, weights: np.ndarray | None) -> Match | None:
    """Whole numbers of replicas of the pair whose slower side is the fastest, for their cost if devices have `weights`."""
    if not len(feeders.tokens_per_s) or not len(users.tokens_per_s):
        return None
    counts = np.array(question.fleet.counts, float)
    fed = feeders.tokens_per_s[:, None, None] * question.corrections.prefill
    # (feeder, user, number of user replicas)
    count = np.arange(1.0, times_within(users.used, counts).max() + 1.0)[None, None, :]
    needed = count * users.tokens_per_s[None, :, None] * question.corrections.decode
    # no more feeders than it takes
    feeding = np.minimum(np.ceil(needed / fed), _room(counts, feeders, users, count))
    total = np.minimum(feeding * fed, needed)
    value = total
    if weights is not None:
        fed_cost, used_cost = feeders.used @ weights, users.used @ weights
        cost = feeding * fed_cost[:, None, None] + count * used_cost[None, :, None]
        value = total / np.maximum(cost, 1e-300)
    i, j, k = map(int, np.unravel_index(int(value.argmax()), value.shape))
    if total[i, j, k] <= 0.0:
        return None
    fed_by, used_by = int(feeding[i, j, k]), int(count[0, 0, k])
    # what is best for its cost may be small: as often as it fits
    used = fed_by * feeders.used[i] + used_by * users.used[j]
    often = int(times_within(used[None], counts)[0]) if weights is not None else 1
    return Match(i, j, often * fed_by, often * used_by, often * float(total[i, j, k]))


def _room(counts: np.ndarray, feeders: Choice, users: Choice, count: np.ndarray) -> np.ndarray:
    """How many feeders fit beside so many users, shape (feeders, users, numbers of users)."""
    most = np.asarray(np.inf)
    for pool, limit in enumerate(counts):
        left = limit - count * users.used[None, :, None, pool]
        each = feeders.used[:, None, None, pool]
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(each > 0, np.floor(left / each), np.inf)
        most = np.minimum(most, np.where(left >= 0, room, 0.0))
    return most


def matched_plan(question: Question, level: str, feeders: Choice, users: Choice) -> ServingPlan | None:
    """The best pair as a plan."""
    match = match_of(question, feeders, users, question.weights)
    if match is None:
        return None
    parts = feeders.part(match.feeder, match.feeders), users.part(match.user, match.users)
    return ServingPlan.of(
        question,
        level,
        parts,
        tokens_per_s=match.tokens_per_s,
        tpot=float(parts[1].outcome.tpot),
        ttft=question.corrections.ttft * float(parts[0].outcome.ttft) + question.transfer,
    )


_FRONTIER = 16
"""Points of the frontier of matched pools, between the fastest user and one thirty times slower."""


def matched_frontier(question: Question, feeders: Choice, decode: Sequence[Candidates], fastest: float) -> np.ndarray:
    """What matched replicas give where decode replicas are slower than `fastest` [s] by more and more."""
    points = []
    least = fastest if math.isfinite(fastest) else 0.0
    for tpot in [*(least * np.geomspace(1.001, 30.0, _FRONTIER)), question.targets.tpot]:
        users = Choice.of(decode, Targets(tpot=float(tpot)))
        match = match_of(question, feeders, users, None)
        if match is not None:
            points.append((1.0 / users.tpot[match.user], match.tokens_per_s))
    where = np.array(points).reshape(-1, 2)
    return frontier_of(where[:, 0], where[:, 1])
