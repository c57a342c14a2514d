"""The best plan of every level of disaggregation, with the same search effort, for the same model, devices and targets.

Four levels: `aggregated` (replicas that hold everything, prompts in chunks beside decoding), `aggregated-afd` (the same with the
experts on devices of their own), `disaggregated` (prefill and decode replicas) and `disaggregated-afd` (decode with experts
apart, prefill with or without). With two pools of devices every role is tried on either: attention and experts, prefill and
decode; replicas that do everything on one kind of device stand beside others on the other.
"""

import itertools
from collections import Counter
from collections.abc import Sequence

from afdjax.explore.plans.candidates import Candidates
from afdjax.explore.plans.choice import Choice, side_by_side
from afdjax.explore.plans.evaluation import evaluated
from afdjax.explore.plans.frontier import candidates_frontier, frontier_beside, frontier_either
from afdjax.explore.plans.matching import matched_frontier, matched_plan
from afdjax.explore.plans.plan import LEVELS, Level, last_hurdle
from afdjax.explore.plans.question import Question, Targets


def levels_of(question: Question) -> tuple[tuple[Level, ...], int]:
    """All levels, and how many candidates were looked at, each once for all levels."""
    of = {
        (kind, apart): [evaluated(question, kind, place) for place in question.fleet.places(apart)]
        for kind, apart in itertools.product(("chunked", "prefill", "decode"), (False, True))
    }
    prefill, decode = of["prefill", False], of["decode", False]
    levels = (
        _whole_level(question, LEVELS[0], of["chunked", False]),
        _whole_level(question, LEVELS[1], of["chunked", True]),
        _matched_level(question, LEVELS[2], prefill, decode),
        _matched_level(question, LEVELS[3], prefill + of["prefill", True], of["decode", True]),
    )
    return levels, sum(len(each) for several in of.values() for each in several)


def _whole_level(question: Question, name: str, several: Sequence[Candidates]) -> Level:
    """Equal replicas that do everything; with two pools, replicas of each beside one another or across both."""
    limit = question.targets_of("chunked")
    alone = [each for each in several if len(set(each.place)) == 1]
    alternatives = [alone, *([each] for each in several if len(set(each.place)) > 1)]
    plans = [plan for pools in alternatives if (plan := side_by_side(question, name, pools, limit))]
    slow = Targets(ttft=limit.ttft)
    frontier = frontier_either(
        [frontier_beside([candidates_frontier(each, slow) for each in pools]) for pools in alternatives]
    )
    reasons = Counter[str]()
    for each in several:
        reasons.update(each.reasons(limit))
    floors = [each.floor(limit) for each in several]
    floor = Targets(
        min(each.ttft for each in floors) * question.corrections.whole_ttft, min(each.tpot for each in floors)
    )
    best = max(plans, key=lambda plan: plan.value, default=None)
    return Level(name, best, sum(map(len, several)), dict(reasons), last_hurdle(reasons), floor, frontier)


def _matched_level(question: Question, name: str, prefill: list[Candidates], decode: list[Candidates]) -> Level:
    """Prefill replicas that feed decode replicas."""
    sides = ((prefill, question.targets_of("prefill")), (decode, question.targets_of("decode")))
    feeders, users = (Choice.of(side, limit) for side, limit in sides)
    floors = [[each.floor(limit) for each in side] for side, limit in sides]
    first = min(floor.ttft for floor in floors[0]) * question.corrections.ttft + question.transfer
    floor = Targets(first, min(floor.tpot for floor in floors[1]))
    failed = [[each.reasons(limit) for each in side] for side, limit in sides]
    reasons = Counter[str]()
    for counts in itertools.chain(*failed):
        reasons.update(counts)
    # prefill is looked at first: without it there is nothing to decode
    short = failed[0] if not feeders.rows else failed[1] if not users.rows else []
    return Level(
        name,
        matched_plan(question, name, feeders, users),
        sum(map(len, prefill + decode)),
        dict(reasons),
        last_hurdle(sum(map(Counter, short), Counter[str]())),
        floor,
        matched_frontier(question, feeders, decode, floor.tpot),
    )
