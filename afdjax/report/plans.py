"""Plans and workloads as text: the recommendation first, then why, how sure, and what to measure better."""

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from afdjax.planning.model_check import Comparison
from afdjax.planning.planner import Plan
from afdjax.report.layout import headline, notes, pairs, render
from afdjax.simulation import Idle
from afdjax.workload.estimation import diagnose, moments, sampling_covariance
from afdjax.workload.laws import Requests


def plan_report(plan: Plan) -> str:
    """The report that `afdjax plan` prints."""
    return render(*_recommendation(plan), *_reasons(plan), *_certainty(plan), *_measure(plan), *notes(plan.warnings))


def workload_report(requests: Requests) -> str:
    """The report that `afdjax summarize` prints of a log."""
    source, (theta, nu) = requests.source, moments(requests)
    covariance, method = sampling_covariance(requests)
    found = diagnose(requests)
    error = np.sqrt(np.diag(covariance))
    rows = [
        ("requests", f"{source.requests:,} ({source.origin or source.name})"),
        ("left out", f"{source.without_decode:,} without a decode step, {source.bad_rows:,} bad rows"),
        ("theta", f"{theta:,.1f} tokens a slot, standard error {error[0]:.2g} ({method})"),
        ("nu", f"{nu:,.1f} tokens, standard error {error[1]:.2g}"),
        (
            "simple theta",
            f"{found.theta_simple:,.1f} ({found.theta_simple / theta - 1:+.1%}): independent, geometric decode",
        ),
        (
            "independent theta",
            f"{found.theta_independent:,.1f} ({found.theta_independent / theta - 1:+.1%}): true laws",
        ),
        ("top 1 % of requests", f"carry {found.top_share:.1%} of the token load"),
        ("effective sample", f"{found.effective_requests:,.0f} independent requests"),
    ]
    if found.drift is not None:
        rows.append(("drift of theta", f"{found.drift[0]:+.1%} to {found.drift[1]:+.1%} over the log"))
    return render(headline(source.name), pairs(rows))


def simulation_report(comparison: Comparison) -> str:
    """The report that `afdjax simulate` prints."""
    found, unit = comparison.simulation, comparison.profile.time_unit
    at = found.attention_workers.index(found.best)
    replicas = len(found.throughput_by_replica)
    rows = [
        ("throughput", f"{_with_error(found.throughput[at], found.half_width[at])} tokens per {unit} and instance"),
        ("cannot be told apart", f"{_ranges(found.indistinguishable())} attention workers (paired t-tests, 5 %)"),
        ("cycle time", f"{found.cycle_time[at]:.4g} {unit}, 1 % last longer than {found.cycle_quantiles.p99[at]:.4g}"),
        (
            "TPOT of requests",
            f"mean {found.request_tpot[at]:.4g}, 95 % below {found.tpot_quantiles.p95[at]:.4g}, "
            f"99 % below {found.tpot_quantiles.p99[at]:.4g} {unit}",
        ),
        ("idle attention", _idle(found.idle_attention, at)),
        ("idle FFN", _idle(found.idle_ffn, at)),
        ("lost to stragglers", f"{found.straggler_loss[at]:.1%} of throughput, against evenly shared tokens"),
        ("model", _model_verdict(comparison)),
        (
            "simulated",
            f"{int(found.steps):,} decode steps x {replicas} replicas, seed {comparison.seed}, "
            f"{'cold' if comparison.cold else 'stationary'} start",
        ),
        ("workload", f"{comparison.workload_name}; profile {comparison.profile.provenance.name}"),
    ]
    return render(
        headline(f"{found.best}A-{float(comparison.bundle.ffn_workers):g}F is best of those simulated"),
        pairs(rows),
        _comparison_table(comparison),
        *notes(found.warnings()),
    )


def check_report(comparison: Comparison) -> str:
    """What `afdjax plan --check` adds to the plan."""
    found = comparison.simulation
    sampled = f"{int(found.steps):,} decode steps x {len(found.throughput_by_replica)} replicas"
    return render(
        headline("Checked by simulation"),
        pairs([("model", _model_verdict(comparison)), ("simulated", sampled)]),
        _comparison_table(comparison),
    )


def _model_verdict(comparison: Comparison) -> str:
    found = comparison.simulation
    picked = f"picks {comparison.model_best}"
    if comparison.model_best in found.indistinguishable():
        picked += ", among the best simulated"
    else:
        picked += f", which loses {comparison.regret:.2%} of the best simulated throughput"
    return f"{picked}; throughput {comparison.difference.min():+.2%} to {comparison.difference.max():+.2%} of the simulated"


def _comparison_table(comparison: Comparison) -> Table:
    found, table = comparison.simulation, Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("workers", "throughput", "+-", "model", "cycle", "TPOT p95", "idle A", "idle F", "stragglers"):
        table.add_column(name, justify="right")
    for i, workers in enumerate(found.attention_workers):
        table.add_row(
            f"{workers}{' *' if workers == found.best else '  '}",
            f"{found.throughput[i]:.4g}",
            "-" if np.isnan(found.half_width[i]) else f"{found.half_width[i]:.1g}",
            f"{comparison.difference[i]:+.2%}",
            f"{found.cycle_time[i]:.4g}",
            f"{found.tpot_quantiles.p95[i]:.4g}",
            f"{found.idle_attention.total[i]:.1%}",
            f"{found.idle_ffn.total[i]:.1%}",
            f"{found.straggler_loss[i]:.1%}",
        )
    return table


def _with_error(value, half_width) -> str:
    return f"{value:.4g}" + ("" if np.isnan(half_width) else f" +- {half_width:.1g} (95 %)")


def _idle(idle: Idle, at: int) -> str:
    parts = [("barrier", idle.barrier), ("the other stage", idle.other_stage), ("communication", idle.communication)]
    why = ", ".join(f"{name} {share[at]:.1%}" for name, share in parts if share[at] >= 0.0005)
    return f"{idle.total[at]:.1%}" + (f": {why}" if why else "")


def _recommendation(plan: Plan) -> list:
    best, unit = plan.at_best, plan.profile.time_unit
    ffn_workers = float(plan.bundle.ffn_workers)
    choice = f"{plan.attention_workers}A-{ffn_workers:g}F: {plan.attention_workers} attention workers"
    choice += " for 1 FFN worker" if ffn_workers == 1 else f" for {ffn_workers:g} FFN workers"
    interval = "" if plan.ratio_interval is None else " (95 %: {:.2f} to {:.2f})".format(*plan.ratio_interval)
    throughput = f"{float(best.throughput_per_instance):.4g} tokens per {unit} and instance"
    if plan.throughput_interval is not None:
        throughput += " (95 %: {:.4g} to {:.4g})".format(*plan.throughput_interval)
    return [
        headline(choice),
        pairs(
            [
                ("best ratio r*", f"{plan.ratio:.2f}{interval}"),
                ("within 1 %", f"{_ranges(plan.near_optimal)} attention workers"),
                ("throughput", throughput),
                ("other bundles", _others(plan)),
                (
                    "cycle time",
                    f"{float(best.cycle_time):.4g} {unit}; a token every {float(best.tpot):.4g} {unit} (TPOT)",
                ),
                ("idle", f"attention {float(best.idle_attention):.1%}, FFN {float(best.idle_ffn):.1%}"),
            ]
        ),
    ]


def _others(plan: Plan) -> str:
    """The best whole bundles with other numbers of FFN workers, by what they gain or lose."""
    here = float(plan.at_best.throughput_per_instance)
    return ", ".join(
        f"{whole.attention_workers}A-{whole.ffn_workers}F {whole.throughput_per_instance / here - 1:+.1%}"
        for whole in plan.whole_bundles
        if whole.ffn_workers != float(plan.bundle.ffn_workers)
    )


def _reasons(plan: Plan) -> list:
    best = plan.at_best
    shares = {
        "the slowest attention worker": best.attention_decides,
        "the FFN": best.ffn_decides,
        "the link": best.link_decides,
        "a microbatch's round trip": best.round_trip_decides,
    }
    decides = ", ".join(f"{who} {float(share):.0%}" for who, share in shares.items() if float(share) >= 0.005)
    rows = [
        ("workload", f"{plan.workload_name}: theta {plan.theta:,.0f}, nu {plan.nu:,.0f} tokens a slot"),
        ("profile", f"{plan.profile.provenance.name}, times in {plan.profile.time_unit}"),
        (
            "bundle",
            f"{float(plan.bundle.batch_size):g} slots a worker and microbatch, {plan.bundle.in_flight} in flight, "
            f"{type(plan.barrier).__name__} barrier",
        ),
        ("limited by", f"{plan.regime}; a cycle is decided by {decides}"),
    ]
    if plan.closed_form is not None:
        form = plan.closed_form
        load = "stationary load" if plan.slot_load == plan.theta else "finite-horizon load"
        rows.append(
            (
                "mean field",
                f"{float(form.ratio):.2f} ({form.regime} regime; {load} {plan.slot_load:,.1f}): no barrier, every stage "
                "always busy",
            )
        )
    return [headline("Why"), pairs(rows)]


def _certainty(plan: Plan) -> list:
    rows = []
    if plan.theta_interval is not None:
        low, high = plan.theta_interval
        rows.append(("theta", f"{low:,.0f} to {high:,.0f} tokens (95 %, {plan.error_method})"))
    else:
        rows.append(("theta", f"no sampling error ({plan.error_method})"))
    if plan.diagnostics is not None:
        found = plan.diagnostics
        rows.append(
            (
                "averages alone",
                f"prompt + decode - 1 = {found.theta_simple:,.0f} is off by {found.theta_simple / plan.theta - 1:+.0%}",
            )
        )
        rows.append(("heaviest 1 %", f"of the requests carry {found.top_share:.0%} of the token load"))
    if plan.profile.covariance is None:
        rows.append(("coefficients", "taken as exact: the profile has no covariance"))
    return [headline("How sure"), pairs(rows)]


def _measure(plan: Plan) -> list:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("1 % more of")
    table.add_column("moves r* by", justify="right")
    table.add_column("and throughput by", justify="right")
    moves = lambda name: (abs(plan.ratio_elasticities[name]), abs(plan.throughput_elasticities[name]))
    # a general form has terms that this profile does not use: nothing moves with them
    names = [name for name in plan.ratio_elasticities if moves(name) != (0.0, 0.0)]
    names.sort(key=lambda name: -moves(name)[0])
    for name in names:
        table.add_row(name, f"{plan.ratio_elasticities[name]:+.2f} %", f"{plan.throughput_elasticities[name]:+.2f} %")
    measured = [name for name in names if name not in ("batch_size", "theta", "nu")]
    first = f"Measure {' and '.join(measured[:2])} best; theta needs the longest log you have."
    return [headline("What to measure better"), Text(first), table]


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1 to 3, 7"."""
    array = np.asarray(numbers)
    runs = np.split(array, np.flatnonzero(np.diff(array) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
