"""Candidates of one kind and place: a coarse grid, and what is around the best of it."""

import numpy as np

from afdjax.explore.plans import shapes
from afdjax.explore.plans.candidates import Candidates
from afdjax.explore.plans.choice import best_row
from afdjax.explore.plans.fleet import Fleet, Place
from afdjax.explore.plans.question import Question


def evaluated(question: Question, kind: str, place: Place) -> Candidates:
    """All candidates that a search looks at of one kind, on these pools."""
    apart = len(place) == 2
    batch, chunk = _coarse(kind, float(question.setting.requests.prompt))
    limits = _limits(question.fleet, place)
    depths = question.setting.schedule.depths if apart else shapes.WHOLE_DEPTHS
    setting = question.placed(place).anonymous
    counts = np.array(question.fleet.counts, float)

    def outcomes(looked_at: shapes.Shapes) -> Candidates:
        return Candidates.of(setting, kind, place, counts, shapes.allowed(looked_at, setting, question.rules), depths)

    make = shapes.disaggregated if apart else shapes.aggregated
    several = [outcomes(make(limits, chunk, batch))]
    targets = question.targets_of(kind)
    best = several[0].rows(several[0].best_by_size(targets))
    # the grid is coarse, the best is at whole numbers: around the best of all, and batches and chunks of the best of every size
    for width in (0.2, 0.04):
        top = best_row(question, best, targets)
        if top is not None:
            several.append(outcomes(shapes.around(best.shapes.rows(top), limits)))
            best = _better(best, several[-1], question)
            several.append(outcomes(shapes.finer(best.shapes, width)))
            best = _better(best, several[-1], question)
    return Candidates.joined(several)


def _better(best: Candidates, more: Candidates, question: Question) -> Candidates:
    """Of every size the best of both."""
    both = Candidates.joined([best, more])
    return both.rows(both.best_by_size(question.targets_of(both.kind)))


def _coarse(kind: str, prompt: float) -> tuple[np.ndarray, np.ndarray]:
    """Batch sizes and chunks to begin with."""
    chunks = np.unique(np.maximum(np.round(np.array(shapes.CHUNKS) * prompt), 1.0))
    none = np.array([0.0])
    return {
        "chunked": (shapes.batches(), chunks),
        "decode": (shapes.batches(4), none),
        "prefill": (none, np.unique(np.concatenate([chunks, 8 * chunks]))),
    }[kind]


def _limits(fleet: Fleet, place: Place) -> shapes.Limits:
    near, far = fleet.counts[place[0]], fleet.counts[place[-1]]
    return shapes.Limits(near, far if len(place) == 2 else 0, near if place[0] == place[-1] else near + far)
