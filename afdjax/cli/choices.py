"""Options with a few values: the values, which `--help` shows.

The library knows them as well, but it is not imported before a command runs; a test holds both together.
"""

from enum import StrEnum

from afdjax.report.words import listed


Barrier = StrEnum("Barrier", ["exact", "gaussian", "mean-field"])
SlotStart = StrEnum("SlotStart", ["stationary", "cold"])
AttentionStart = StrEnum("AttentionStart", ["worker-wise", "together"])

Objective = StrEnum("Objective", ["throughput", "price", "power"])
Format = StrEnum("Format", ["bf16", "fp8", "int8", "nvfp4", "mxfp4"])
Schedule = StrEnum("Schedule", ["four-stage", "three-stage", "two-stage", "serial", "fused", "unchained"])
Routes = StrEnum("Routes", ["per-node", "per-device", "per-expert"])
Rule = StrEnum("Rule", ["whole-experts", "divisible", "attention-first", "whole-nodes"])
AfdLevel = StrEnum("AfdLevel", ["aggregated-afd", "disaggregated-afd"])

Stage = StrEnum("Stage", ["attention", "ffn", "communication"])
AttentionForm = StrEnum(
    "AttentionForm",
    ["affine", "affine-with-slots", "sharp-floor-linear", "floor-linear", "roofline", "capped-roofline", "table"],
)
FfnForm = StrEnum("FfnForm", ["affine", "sharp-floor-linear", "floor-linear", "expert-hit", "roofline", "table"])
CommunicationForm = StrEnum(
    "CommunicationForm", ["affine", "sharp-floor-linear", "floor-linear", "saturating-link", "roofline", "table"]
)

Device = StrEnum("Device", ["cpu", "gpu", "tpu"])
Model = StrEnum("Model", ["deepseek-v3", "qwen3-235b", "small"])


def metavar(choices: type[StrEnum]) -> str:
    """The values as `--help` shows them beside an option that may be repeated."""
    return f"<{'|'.join(choices)}>"


def one_of(choices: type[StrEnum]) -> str:
    """The values in words, for help texts."""
    return listed(list(choices), "or")
