"""Which of the candidates become plans: the best of all, and replicas of several pools beside one another."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from afdjax.explore.plans.candidates import EQUAL, Candidates
from afdjax.explore.plans.plan import PlanPart, ServingPlan
from afdjax.explore.plans.question import Question, Targets


def best_row(question: Question, candidates: Candidates, targets: Targets) -> int | None:
    """The row with the largest value, with as many replicas as the pools hold."""
    good = candidates.good(targets)
    if not good.any():
        return None
    total = candidates.fits * candidates.outcomes.tokens_per_s
    value = np.where(good, question.value(total, candidates.fits[:, None] * candidates.used), -1.0)
    return int(candidates.soonest_first(np.flatnonzero(value >= EQUAL * value.max()))[0])


def side_by_side(question: Question, level: str, pools: Sequence[Candidates], targets: Targets) -> ServingPlan | None:
    """Replicas that do everything, the best of each of these places, beside one another."""
    rows = [(each, i) for each in pools if (i := best_row(question, each, targets)) is not None]
    if question.weights is not None and rows:
        # replicas of the worse kind only dilute what a price buys
        worth = lambda each, i: float(question.value(np.asarray(each.outcomes.tokens_per_s[i]), each.used[i]))
        rows = [max(rows, key=lambda row: worth(*row))]
    if not rows:
        return None
    parts = [each.part(i, int(each.fits[i])) for each, i in rows]
    return ServingPlan.of(
        question,
        level,
        parts,
        tokens_per_s=sum(part.count * float(part.outcome.tokens_per_s) for part in parts),
        tpot=max(float(part.outcome.tpot) for part in parts),
        ttft=max(float(part.outcome.ttft) for part in parts) * question.corrections.whole_ttft,
    )


_MOST_ROWS = 200
"""Rows that matching looks at. One pool has fewer sizes; of splits over two pools those count that give the most for their share
of the scarcer one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """For every number of devices of each pool the fastest replica that keeps some targets: rows of candidates.

    `tokens_per_s` and `tpot` have shape (rows,), `used` (rows, pools).
    """

    rows: list[tuple[Candidates, int]]
    tokens_per_s: np.ndarray
    tpot: np.ndarray
    used: np.ndarray

    @classmethod
    def of(cls, several: Sequence[Candidates], targets: Targets) -> "Choice":
        """From candidates of several places."""
        counts = several[0].counts
        rows = [(each, int(i)) for each in several for i in each.best_by_size(targets)]
        # what each gives for its share of the scarcer pool
        worth = np.array([each.outcomes.tokens_per_s[i] / (each.used[i] / counts).max() for each, i in rows])
        rows = [rows[i] for i in np.argsort(-worth, kind="stable")[:_MOST_ROWS]]
        rate = np.array([each.outcomes.tokens_per_s[i] for each, i in rows])
        tpot = np.array([each.outcomes.tpot[i] for each, i in rows])
        used = np.array([each.used[i] for each, i in rows]).reshape(len(rows), len(counts))
        return cls(rows, rate, tpot, used)

    def part(self, i: int, count: int) -> PlanPart:
        """So many replicas of one row."""
        candidates, row = self.rows[i]
        return candidates.part(row, count)
