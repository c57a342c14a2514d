"""Request logs as text: what a slot holds, how surely, and what averages would miss."""

from afdjax.report.layout import Document, headline, pairs, render
from afdjax.report.quantities import shown_share


UNSETTLED = "does not settle with longer blocks: the log drifts, or is short for its dependence"


def workload_report(log: Document) -> str:
    """The report that `afdjax summarize` prints, of `afdjax.workload.estimation.diagnosis.describe`.

    >>> from afdjax.workload.estimation.diagnosis import describe
    >>> text = afd.report.workload_report(describe(workload))
    """
    theta, nu, method = log["theta"], log["nu"], log["error_method"]
    change = lambda share: shown_share(share, 1, signed=True)
    off = lambda name: f"{log[name]:,.1f} ({change(log[name] / theta - 1)})" if theta else f"{log[name]:,.1f}"
    ci95 = lambda ends: "not known" if ends is None else f"theta {ends[0]:,.1f} to {ends[1]:,.1f} (95 %)"
    rows = [
        ("requests", f"{log['requests']:,} ({log['origin'] or log['name']})"),
        ("left out", f"{log['without_decode']:,} without a decode step, {log['bad_rows']:,} bad rows"),
        ("theta", f"{theta:,.1f} tokens a slot, standard error {log['theta_error']:.2g} ({method})"),
        ("this log's mean", ci95(log["theta_ci95"])),
        ("a later window", f"{ci95(log['theta_later_ci95'])}: the next requests, a tenth as many as the log has"),
        ("nu", f"{nu:,.1f} tokens, standard error {log['nu_error']:.2g}"),
        ("simple theta", f"{off('theta_simple')}: prompt and decode independent, decode geometric"),
        ("independent theta", f"{off('theta_independent')}: prompt and decode independent, both as in the log"),
        ("heavy requests", f"1 % of the requests carry {shown_share(log['top_share'], 1)} of the token load"),
        ("effective sample", f"{log['effective_requests']:,.0f} independent requests"),
    ]
    if log["drift"] is not None:
        low, high = map(change, log["drift"])
        rows.append(("drift of theta", f"{low} to {high} over the log"))
    if log["settles"] is False:
        rows.append(("variance of theta", UNSETTLED))
    return render(headline(log["name"]), pairs(rows))
