"""How a request log is to be read; apart from its reader, which needs a library of tables."""

import dataclasses

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import check_fields


@advised("afd.LogOptions(prompt_column='input', decode_column='output')")
@dataclasses.dataclass(frozen=True)
class LogOptions:
    """How to read a request log: what its columns mean, and what to do with bad rows.

    **Attributes:**

    - `prompt_column`, `decode_column`, `time_column`: names of its columns, where the log has none of the known `LAYOUTS`; None
      where the layout decides. A time is in seconds, or a date and time.
    - `first_token_from_prefill`: what an output token is. By default (False) each output token is one decode step of a
      slot that starts with the prompt, D = output tokens. True: prefill makes the first one, so D is one less and the slot
      starts with one token more.
    - `skip_bad_rows`: leave out rows that cannot be right and count them, instead of refusing the log.

        >>> from pathlib import Path
        >>> _ = Path("log.csv").write_text("in,out\\n100,50\\n300,200\\n")
        >>> log = afd.load_trace("log.csv", afd.LogOptions(prompt_column="in", decode_column="out"))
        >>> float(log.decode_mean)
        125.0
    """

    prompt_column: str | None = None
    decode_column: str | None = None
    time_column: str | None = None
    first_token_from_prefill: bool = False
    skip_bad_rows: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
