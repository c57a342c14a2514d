"""The command `afdjax summarize`: a request log in, a histogram that can be shared out."""

from pathlib import Path
from typing import Annotated

import typer

from afdjax._tools.write import write
from afdjax.cli import scenario as options
from afdjax.cli.common import check_target, naming, prepare, refusing


def summarize(
    log: Annotated[Path, typer.Argument(help="Request log: CSV, JSON lines or Parquet, plain or gzip.")],
    output: Annotated[Path, options.output("The summary to write (JSON).")],
    name: Annotated[str | None, typer.Option(help="Name of the workload. Default: that of the output file.")] = None,
    source: Annotated[str, typer.Option(help="Where the log comes from, kept in the summary.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the log, kept in the summary.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the summary instead of the report.")] = False,
    prompt_column: options.PromptColumn = None,
    decode_column: options.DecodeColumn = None,
    time_column: options.TimeColumn = None,
    first_token_from_prefill: options.FirstToken = False,
    skip_bad_rows: options.SkipBadRows = False,
) -> None:
    """Turn a request log into a histogram that can be shared.

    Also reports what a slot holds in this log, and how sure that is.
    """
    prepare()
    import afdjax
    from afdjax.report.workloads import workload_report
    from afdjax.workload.estimation.diagnosis import describe

    with refusing(naming(summarize)):
        check_target(output, ".json")
        requests = afdjax.load_trace(
            log, afdjax.LogOptions(prompt_column, decode_column, time_column, first_token_from_prefill, skip_bad_rows)
        )
        document = afdjax.summarize(requests, name=name or output.stem, origin=source, licence=licence)
        write(output, document.encode())
    print(document if json else workload_report(describe(requests)))
