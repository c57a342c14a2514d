"""Words that reports and figures share."""

CIRCUITS = {
    "attention": "the slowest attention worker",
    "round-trip": "a microbatch's round trip",
    "communication": "the link",
    "ffn": "the FFN",
}
"""What a cycle is decided by, by the names of documents."""
