"""Plans as text: the recommendation first, then why, how sure, and what to measure better."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from afdjax.report.layout import Document, headline, interval, notes, pairs, ranges, render
from afdjax.report.words import CIRCUITS


def plan_report(plan: Document) -> str:
    """The report that `afdjax plan` prints, of a plan's document.

    >>> afd.report.plan_report(plan.to_dict()) == str(plan)
    True
    """
    return render(*_recommendation(plan), *_reasons(plan), *_certainty(plan), *_measure(plan), *notes(plan["warnings"]))


def _recommendation(plan: Document) -> list[Any]:
    best, unit = plan["optimum"], plan["profile"]["time_unit"]
    attention, ffn = best["attention_workers"], best["ffn_workers"]
    choice = f"{attention}A-{ffn:g}F: {attention} attention workers for {ffn:g} FFN worker{'' if ffn == 1 else 's'}"
    throughput = f"{best['throughput_per_instance']:.4g} tokens per {unit} and instance"
    rows = [
        ("best ratio r*", f"{best['ratio']:.2f}{interval(best['ratio_ci95'], '.2f')}"),
        ("within 1 %", f"{ranges(plan['within_1_percent'])} attention workers"),
        ("throughput", f"{throughput}{interval(best['throughput_per_instance_ci95'], '.4g')}"),
        ("other bundles", _others(plan)),
        ("cycle time", f"{best['cycle_time']:.4g} {unit}; a token every {best['tpot']:.4g} {unit} (TPOT)"),
        ("idle", f"attention {best['idle_attention']:.1%}, FFN {best['idle_ffn']:.1%}"),
    ]
    return [headline(choice), pairs(rows)]


def _others(plan: Document) -> str:
    """The best whole bundles with other numbers of FFN workers, by what they gain or lose."""
    best = plan["optimum"]
    return ", ".join(
        f"{whole['attention_workers']}A-{whole['ffn_workers']}F "
        f"{whole['throughput_per_instance'] / best['throughput_per_instance'] - 1:+.1%}"
        for whole in plan["whole_bundles"]
        if whole["ffn_workers"] != best["ffn_workers"]
    )


def _reasons(plan: Document) -> list[Any]:
    workload, profile, bundle, best = (plan[name] for name in ("workload", "profile", "bundle", "optimum"))
    decides = ", ".join(f"{CIRCUITS[who]} {share:.0%}" for who, share in best["decides"].items() if share >= 0.005)
    barrier = "".join(word.capitalize() for word in bundle["barrier"].split("-"))
    rows = [
        ("workload", f"{workload['name']}: theta {workload['theta']:,.0f}, nu {workload['nu']:,.0f} tokens a slot"),
        ("profile", f"{profile['name']}, times in {profile['time_unit']}"),
        (
            "bundle",
            f"{bundle['batch_size']:g} slots a worker and microbatch, {bundle['in_flight']} in flight, {barrier} barrier",
        ),
        ("limited by", f"{best['regime']}; a cycle is decided by {decides}"),
    ]
    costs = workload.get("slot_cost")
    if costs is not None:
        rows.insert(
            1, ("slot cost", f"mean {costs['mean']:,.5g}, deviation {costs['deviation']:,.5g}: attention goes by it")
        )
    form = plan["closed_form"]
    if form is not None:
        stationary = "stationary load" if costs is None else "mean slot cost"
        load = (
            stationary if form["slot_load"] == (costs or {"mean": workload["theta"]})["mean"] else "finite-horizon load"
        )
        rows.append(
            (
                "mean field",
                f"{form['ratio']:.2f} ({form['regime']} regime; {load} {form['slot_load']:,.1f}): no barrier, every stage "
                "always busy",
            )
        )
    return [headline("Why"), pairs(rows)]


def _certainty(plan: Document) -> list[Any]:
    workload, method = plan["workload"], plan["workload"]["theta_error_method"]
    if workload["theta_ci95"] is not None:
        rows = [("this log's mean", f"{_theta(workload['theta_ci95'])} (95 %, {method})")]
    else:
        rows = [("theta", f"no sampling error ({method})")]
    if workload["theta_later_ci95"] is not None:
        later = _theta(workload["theta_later_ci95"])
        rows.append(("a later window", f"{later} (95 %): the next requests, a tenth as many as the log has"))
    if "top_1_percent_share" in workload:
        simple = workload["theta_simple"]
        off = simple / workload["theta"] - 1
        rows += [
            ("averages alone", f"prompt + decode - 1 = {simple:,.0f} is off by {off:+.0%}"),
            ("heaviest 1 %", f"of the requests carry {workload['top_1_percent_share']:.0%} of the token load"),
        ]
    fitted = plan["profile"]["has_covariance"]
    if not fitted:
        rows.append(("coefficients", "taken as exact: the profile has no covariance"))
    if plan["optimum"]["ratio_ci95"] is not None:
        errors = " and ".join(
            ["the log's sampling error"] * (workload["theta_ci95"] is not None) + ["that of the fit"] * fitted
        )
        rows.append(
            ("interval of r*", f"covers {errors}; not the model's own error, nor a change of load or of what is served")
        )
    if plan["optimum"]["ratio_error_by_source"] is not None:
        by_source = plan["optimum"]["ratio_error_by_source"].items()
        rows.append(("r* by source", ", ".join(f"{name} {_half_width(error)}" for name, error in by_source)))
    return [headline("How sure"), pairs(rows)]


def _half_width(error: float | None) -> str:
    """Of the 95 % interval that one source alone would give."""
    return "not given" if error is None else f"+-{1.96 * error:.1%}"


def _theta(ends: list[float]) -> str:
    return f"theta {ends[0]:,.0f} to {ends[1]:,.0f} tokens"


def _measure(plan: Document) -> list[Any]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("1 % more of")
    table.add_column("moves r* by", justify="right")
    table.add_column("and throughput by", justify="right")
    of_ratio, of_throughput = plan["elasticities"], plan["throughput_elasticities"]
    # a general form has terms that this profile does not use: nothing moves with them
    names = [name for name in of_ratio if of_ratio[name] != 0.0 or of_throughput[name] != 0.0]
    names.sort(key=lambda name: -abs(of_ratio[name]))
    for name in names:
        table.add_row(name, f"{of_ratio[name]:+.2f} %", f"{of_throughput[name]:+.2f} %")
    measured = [
        name for name in names if name not in ("batch_size", "theta", "nu", "slot_cost.mean", "slot_cost.deviation")
    ]
    needs = "what slots cost needs" if "slot_cost" in plan["workload"] else "theta needs"
    first = f"Measure {' and '.join(measured[:2])} best; {needs} the longest log you have."
    return [headline("What to measure better"), Text(first), table]
