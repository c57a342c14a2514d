"""Plans as text: the recommendation first, then why, how sure, and what to measure better."""

from typing import Any

from afdjax.report.layout import Document, headline, interval, notes, pairs, ranges, render, table, wrapped
from afdjax.report.quantities import shown_share, shown_time
from afdjax.report.words import CIRCUITS, throughput


def plan_report(plan: Document) -> str:
    """The report that `afdjax plan` prints, of a plan's document.

    >>> afd.report.plan_report(plan.to_dict()) == str(plan)
    True
    """
    return render(*_recommendation(plan), *_reasons(plan), *_certainty(plan), *_measure(plan), *notes(plan["warnings"]))


def _recommendation(plan: Document) -> list[str]:
    best, unit, near = plan["optimum"], plan["profile"]["time_unit"], plan["within_1_percent"]
    attention, ffn = best["attention_workers"], best["ffn_workers"]
    choice = f"{attention}A-{ffn:g}F: {_counted(attention, 'attention worker')} for {_counted(ffn, 'FFN worker')}"
    cycle, tpot = (shown_time(best[name], unit, 4) for name in ("cycle_time", "tpot"))
    rows = [
        ("best ratio r*", f"{best['ratio']:.2f}{interval(best['ratio_ci95'], '.2f')}"),
        ("within 1 %", f"{ranges(near)} attention worker{'' if near == [1] else 's'}"),
        ("throughput", throughput(best["throughput_per_instance"], unit, best["throughput_per_instance_ci95"])),
        ("other bundles", _others(plan)),
        ("cycle time", f"{cycle}; a token every {tpot} (TPOT)"),
        ("idle", f"attention {shown_share(best['idle_attention'], 1)}, FFN {shown_share(best['idle_ffn'], 1)}"),
    ]
    return [headline(choice), pairs(rows)]


def _counted(number: int | float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def _others(plan: Document) -> str:
    """The best whole bundles with other numbers of FFN workers, by what they gain or lose."""
    best = plan["optimum"]
    gain = lambda whole: whole["throughput_per_instance"] / best["throughput_per_instance"] - 1.0
    return ", ".join(
        f"{whole['attention_workers']}A-{whole['ffn_workers']}F {shown_share(gain(whole), 1, signed=True)}"
        for whole in plan["whole_bundles"]
        if whole["ffn_workers"] != best["ffn_workers"]
    )


def _reasons(plan: Document) -> list[str]:
    workload, profile, bundle, best = (plan[name] for name in ("workload", "profile", "bundle", "optimum"))
    decides = ", ".join(
        f"{CIRCUITS[who]} ({shown_share(share)})" for who, share in best["decides"].items() if share >= 0.005
    )
    barrier = "".join(word.capitalize() for word in bundle["barrier"].split("-"))
    rows = [("workload", f"{workload['name']}: theta {workload['theta']:,.0f}, nu {workload['nu']:,.0f} tokens a slot")]
    costs = workload.get("slot_cost")
    if costs is not None:
        rows.append(
            ("slot cost", f"mean {costs['mean']:,.5g}, deviation {costs['deviation']:,.5g}: attention goes by it")
        )
    rows += [
        ("profile", f"{profile['name']}, time unit {profile['time_unit']}"),
        (
            "bundle",
            f"{bundle['batch_size']:g} slots a worker and microbatch, {bundle['in_flight']} in flight, {barrier} barrier"
            + _weights(bundle),
        ),
        ("limited by", f"{best['regime']}; what decides a cycle: {decides}"),
    ]
    return [headline("Why"), pairs(rows + _mean_field(plan["closed_form"], workload))]


def _weights(bundle: Document) -> str:
    """What the workers count where an instance is not simply a worker."""
    attention, ffn = bundle["attention_weight"], bundle["ffn_weight"]
    return (
        ""
        if attention == ffn == 1
        else f"; an attention worker counts as {attention:g} instances, an FFN worker as {ffn:g}"
    )


def _mean_field(form: Document | None, workload: Document) -> list[tuple[str, str]]:
    if form is None:
        return []
    costs = workload.get("slot_cost")
    mean = (costs or {"mean": workload["theta"]})["mean"]
    load = "finite-horizon load" if form["slot_load"] != mean else "mean slot cost" if costs else "stationary load"
    where = f"{form['regime']} regime; {load} {form['slot_load']:,.1f}"
    return [("mean field", f"{form['ratio']:.2f} ({where}): no barrier, every stage always busy")]


def _certainty(plan: Document) -> list[str]:
    workload, method, best = plan["workload"], plan["workload"]["theta_error_method"], plan["optimum"]
    if workload["theta_ci95"] is not None:
        rows = [("this log's mean", f"{_theta(workload['theta_ci95'])} (95 %, {method})")]
    else:
        rows = [("theta", f"no sampling error ({method})")]
    if workload["theta_later_ci95"] is not None:
        later = _theta(workload["theta_later_ci95"])
        rows.append(("a later window", f"{later} (95 %): the next requests, a tenth as many as the log has"))
    if "top_1_percent_share" in workload:
        simple = workload["theta_simple"]
        off = shown_share(simple / workload["theta"] - 1, signed=True)
        heaviest = shown_share(workload["top_1_percent_share"])
        rows += [
            ("averages alone", f"mean prompt + mean decode - 1 = {simple:,.0f} is off by {off}"),
            ("heavy requests", f"1 % of the requests carry {heaviest} of the token load"),
        ]
    fitted = plan["profile"]["has_covariance"]
    if not fitted:
        rows.append(("coefficients", "taken as exact: the profile has no covariance"))
    if best["ratio_ci95"] is not None:
        errors = " and ".join(
            ["the log's sampling error"] * (workload["theta_ci95"] is not None) + ["the errors of the fit"] * fitted
        )
        rows.append(("interval of r*", f"covers {errors}; it does not cover errors of the model or changes of load"))
    if best["ratio_error_by_source"] is not None:
        rows.append(("r* by source", _by_source(best["ratio_error_by_source"])))
    return [headline("How sure"), pairs(rows)]


def _by_source(errors: dict[str, float | None]) -> str:
    """Half widths of the 95 % intervals that each source alone would give."""
    given = [f"{name} +-{shown_share(1.96 * error, 1)}" for name, error in errors.items() if error is not None]
    missing = [f"{name} not given" for name, error in errors.items() if error is None]
    return ", ".join(given + missing)


def _theta(ends: list[float]) -> str:
    return f"theta {ends[0]:,.0f} to {ends[1]:,.0f} tokens"


def _measure(plan: Document) -> list[Any]:
    of_ratio, of_throughput = plan["elasticities"], plan["throughput_elasticities"]
    # a general form has terms that this profile does not use: nothing moves with them
    names = [name for name in of_ratio if of_ratio[name] != 0.0 or of_throughput[name] != 0.0]
    # equal ones in one order, whatever their last digits
    names.sort(key=lambda name: -round(abs(of_ratio[name]), 9))
    # an elasticity is percent for percent
    moves = lambda percent: shown_share(percent / 100.0, 2, signed=True)
    rows = [[name, moves(of_ratio[name]), moves(of_throughput[name])] for name in names]
    measured = [
        name for name in names if name not in ("batch_size", "theta", "nu", "slot_cost.mean", "slot_cost.deviation")
    ]
    what = "the costs of slots" if "slot_cost" in plan["workload"] else "theta"
    first = f"Measure {' and '.join(measured[:2])} most carefully; estimate {what} from the longest log you have."
    heads = ("1 % more of", "moves r* by", "and throughput by")
    return [headline("What to measure better"), wrapped(first), table(heads, rows, texts=heads[:1])]
