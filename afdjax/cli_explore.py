"""The command `afdjax explore`: the best plan of every level of disaggregation, in one table."""

import re
from pathlib import Path
from typing import Annotated

import typer

from afdjax._command import Refusal, check_target, option, prepare, refusing, save_figure, write


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def explore(
    model: Annotated[str, typer.Option(help="Shipped model, or a Hugging Face config.json.")] = "deepseek-v3.2",
    gpus: Annotated[str, typer.Option(help="NxACCELERATOR: a shipped one, or a JSON file.")] = "128xb200",
    workload: Annotated[
        str, typer.Option(help="chat, coding, agentic-coding, PREFIX/PROMPT/OUTPUT tokens, or a workload as of plan.")
    ] = "chat",
    ttft: Annotated[str | None, typer.Option(help="Target to the first token: 50ms, 0.5s. Default: none.")] = None,
    tpot: Annotated[str | None, typer.Option(help="Target of a further token: 15ms. Default: none.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Format of all weights but embedding and head. Default: as the model is stored.")
    ] = None,
    cache: Annotated[str, typer.Option(help="Format of the KV cache.")] = "fp8",
    imbalance: Annotated[float, typer.Option(help="Load of the busiest expert device over the mean.")] = 1.0,
    shared_with_attention: Annotated[
        bool, typer.Option("--shared-with-attention", help="Shared experts and router on the attention devices.")
    ] = False,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Rank what to improve.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the best plan with FFN devices as a profile (JSON).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write throughput against interactivity to this PNG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Aggregated, prefill/decode, attention/FFN disaggregation, or both: the best plan of each under the same targets."""
    prepare()
    import dataclasses

    from afdjax.accelerator_files import load_accelerator
    from afdjax.explore import load_model
    from afdjax.explore.exploration import Targets
    from afdjax.explore.formats import bytes_of
    from afdjax.explore.plans import Setting
    from afdjax.explore.routing import Even
    from afdjax.explore.search import search
    from afdjax.report.exploration import exploration_document, exploration_report

    with refusing(lambda name: "--gpus" if name == "devices" else option(name)):
        for target, suffix in ((plot, ".png"), (output, ".json")):
            if target is not None:
                check_target(target, suffix)
        count, part = _devices(gpus)
        chosen = load_model(model)
        if weights is not None:
            bytes_of(weights, "weights")
            chosen = dataclasses.replace(chosen, formats=(weights, weights, weights))
        accelerator = load_accelerator(part)
        setting = Setting(
            chosen, accelerator, accelerator, _requests(workload), imbalance=Even(imbalance), cache=cache,
            shared_with_attention=shared_with_attention,
        )  # fmt: skip
        found = search(setting, count, Targets(_seconds("--ttft", ttft), _seconds("--tpot", tpot)))
        if plot is not None:
            save_figure(plot, lambda module: module.exploration_figure(found), "exploration")
        text = exploration_document(found, sensitivity) if json else exploration_report(found, sensitivity)
        if output is not None:
            said = _written(found, output)
            text = text if json else f"{text}\n\n{said}"
    print(text)


def _written(found, output: Path) -> str:
    """Write the best plan with FFN devices, and say how to plan with it."""
    from afdjax.explore.as_bundle import as_bundle
    from afdjax.profile_files import profile_to_json

    plans = [
        level.plan
        for level in found.levels
        if level.plan and any(float(p.replica.ffn_devices) for p in level.plan.parts)
    ]
    if not plans:
        raise Refusal(f"{output}: there is no plan with FFN devices to write: relax the targets.")
    best = max(plans, key=lambda plan: plan.tokens_per_s)
    part = next(part for part in reversed(best.parts) if float(part.replica.ffn_devices))
    profile, bundle, workers = as_bundle(found.setting, part.replica, output.stem)
    write(output, profile_to_json(profile).encode())
    return (
        f"wrote {output} ({best.level}, {workers} attention workers):\n"
        f"  afdjax plan --profile {output} --batch-size {float(bundle.batch_size):.0f} --in-flight {bundle.in_flight} "
        f"--layers {float(bundle.layers):.0f} --attention-weight {float(bundle.attention_weight):.0f} "
        f"--ffn-weight {float(bundle.ffn_weight):.0f}"
    )


def _devices(gpus: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d+)x(.+)", gpus)
    if found is None:
        raise Refusal(f"--gpus must be a number and an accelerator such as 128xb200, but it is {gpus}.")
    return int(found[1]), found[2]


def _seconds(name: str, text: str | None) -> float:
    if text is None:
        return float("inf")
    found = re.fullmatch(r"([0-9.]+)\s*(us|ms|s)", text)
    try:
        return float(found[1]) * _UNITS[found[2]] if found else float("nan") / 0
    except (ValueError, ZeroDivisionError):
        raise Refusal(f"{name} must be a time with its unit such as 50ms or 0.5s, but it is {text}.") from None


def _requests(workload: str):
    import afdjax
    from afdjax.explore.plans import USE_CASES, UseCase

    if workload in USE_CASES:
        return USE_CASES[workload]
    if re.fullmatch(r"\d+/\d+/\d+", workload):
        prefix, prompt, output = map(float, workload.split("/"))
        return UseCase(prefix, prompt, output)
    law = afdjax.load_workload(workload)
    # theta is the context that decoding requests have on average: long ones stay longer
    return UseCase(0.0, law.prompt_mean, law.decode_mean, law.theta - law.prompt_mean - law.decode_mean / 2.0)
