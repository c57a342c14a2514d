"""The bottleneck of a plan: the slowest stage, memory or the targets; and how much of its links it needs."""

import dataclasses
import math

from afdjax._tools.objects.arguments import checked
from afdjax.explore.explain.facts import facts_of
from afdjax.explore.plans.plan import PlanPart, ServingPlan
from afdjax.explore.plans.question import Question


BINDINGS = {
    "attention": "the attention stage is the longest",
    "expert-weights": "the FFN stage is the longest, and most of it would stay with fewer tokens",
    "expert-work": "the FFN stage is the longest, and most of it goes with the tokens",
    "network": "a transfer is the longest stage",
    "memory": "not one more request fits on the attention devices",
    "tpot": "the step is at its target",
    "ttft": "the first token is at its target",
}
"""What binds. The codes are stable."""

AT_TARGET = 0.97
"""Share of a target from which on it binds."""


@dataclasses.dataclass(frozen=True)
class Use:
    """What one part of a plan uses, and what binds it (codes of `BINDINGS`).

    `weights`, `cache` and `ffn_weights` are bytes on one device of each pool. `links` is the share of the bandwidth that
    transfers need to hide behind the longer of attention and FFN, or behind both where these share their devices. Above 1 the
    network is the bottleneck, however many microbatches are in flight.

        >>> found.uses[best.level][0].binds
        ('expert-work',)
    """

    binds: tuple[str, ...]
    weights: float
    cache: float
    ffn_weights: float
    links: float


@checked
def use_of(question: Question, plan: ServingPlan, part: PlanPart) -> Use:
    """What a part of a plan uses.

    >>> use = explore.use_of(found.question, best, best.parts[0])
    >>> bool(use.weights < float(b200.memory))
    True
    """
    facts = facts_of(question.placed(part.place), part.replica, part.kind)
    attention, transfers, ffn = map(float, facts.stages)
    # what transfers can hide behind
    work = max(attention, ffn) if float(part.replica.ffn_devices) else attention + ffn
    if transfers > work:
        stage = "network"
    elif attention >= ffn:
        stage = "attention"
    else:
        stage = "expert-weights" if facts.growth[2] < 0.5 * ffn else "expert-work"
    binds = [stage]
    if part.kind != "prefill" and facts.room < 0.0:
        binds.append("memory")
    if part.kind != "prefill" and plan.tpot > AT_TARGET * question.targets.tpot:
        binds.append("tpot")
    if part.kind != "decode" and plan.ttft > AT_TARGET * question.targets.ttft:
        binds.append("ttft")
    latency = float(facts.latency)
    moving, hiding = max(transfers - latency, 0.0), work - latency
    needed = math.inf if moving > 0.0 else 0.0
    links = moving / hiding if hiding > 0.0 else needed
    return Use(tuple(binds), float(facts.weights), float(facts.cache), float(facts.ffn_weights), links)
