"""Request logs as text: what a slot holds, how surely, and what averages would miss."""

from afdjax.report.layout import Document, headline, pairs, render


def workload_report(log: Document) -> str:
    """The report that `afdjax summarize` prints, of `afdjax.workload.estimation.describe`."""
    theta, nu, method = log["theta"], log["nu"], log["error_method"]
    off = lambda name: f"{log[name]:,.1f} ({log[name] / theta - 1:+.1%})"
    rows = [
        ("requests", f"{log['requests']:,} ({log['origin'] or log['name']})"),
        ("left out", f"{log['without_decode']:,} without a decode step, {log['bad_rows']:,} bad rows"),
        ("theta", f"{theta:,.1f} tokens a slot, standard error {log['theta_error']:.2g} ({method})"),
        ("nu", f"{nu:,.1f} tokens, standard error {log['nu_error']:.2g}"),
        ("simple theta", f"{off('theta_simple')}: independent, geometric decode"),
        ("independent theta", f"{off('theta_independent')}: true laws"),
        ("top 1 % of requests", f"carry {log['top_share']:.1%} of the token load"),
        ("effective sample", f"{log['effective_requests']:,.0f} independent requests"),
    ]
    if log["drift"] is not None:
        low, high = log["drift"]
        rows.append(("drift of theta", f"{low:+.1%} to {high:+.1%} over the log"))
    return render(headline(log["name"]), pairs(rows))
