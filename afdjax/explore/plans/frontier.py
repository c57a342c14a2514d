"""Frontiers of throughput against interactivity: points [tokens/s of a user, tokens/s] that no other beats in both.

Slowest users first, shape (points, 2).
"""

from collections.abc import Sequence

import numpy as np

from afdjax.explore.plans.candidates import Candidates
from afdjax.explore.plans.question import Targets


_MANY = 1 << 14
"""Points from which on most are left out before they are sorted."""


def frontier_of(speed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The points that no other beats in both."""
    if len(speed) > _MANY:
        # what a few of them beat need not be sorted
        few = frontier_of(speed[::64], total[::64])
        good = total >= np.append(few[:, 1], -np.inf)[np.searchsorted(few[:, 0], speed)]
        speed, total = speed[good], total[good]
    order = np.lexsort((-total, -speed))
    speed, total = speed[order], total[order]
    best = np.maximum.accumulate(np.append(-np.inf, total))[:-1] if len(total) else total
    return np.stack([speed, total], axis=1)[total > best][::-1]


def candidates_frontier(candidates: Candidates, targets: Targets) -> np.ndarray:
    """Of replicas that keep these targets, as many as the pools hold."""
    good = candidates.good(targets)
    seen = candidates.outcomes
    return frontier_of(1.0 / seen.tpot[good], (candidates.fits * seen.tokens_per_s)[good])


def frontier_beside(frontiers: Sequence[np.ndarray]) -> np.ndarray:
    """Side by side: at every speed what all of them give together."""
    if len(frontiers) == 1:
        return frontiers[0]
    speeds = np.unique(np.concatenate([frontier[:, 0] for frontier in frontiers]))
    total = np.zeros_like(speeds)
    for frontier in frontiers:
        at = np.searchsorted(frontier[:, 0], speeds)
        total += np.append(frontier[:, 1], 0.0)[at]
    return frontier_of(speeds, total)


def frontier_either(frontiers: Sequence[np.ndarray]) -> np.ndarray:
    """Alternatives: the points that none of them beats."""
    points = np.concatenate(list(frontiers))
    return frontier_of(points[:, 0], points[:, 1])
