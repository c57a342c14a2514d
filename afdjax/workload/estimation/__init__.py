"""How far a request log can be trusted: its moments, the errors of theta and nu, and diagnostics of the log."""
