"""The command `afdjax explore`: the best plan of every level of disaggregation, in one table."""

import re
import reprlib
import shlex
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from afdjax._tools.write import write
from afdjax.cli import choices, scenario as options
from afdjax.cli.common import Refusal, check_target, naming, no_plan, prepare, refusing, renamed, save_figure


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def explore(
    model: Annotated[str, typer.Option(help="Shipped model, or a Hugging Face config.json.")] = "deepseek-v3.2",
    gpus: Annotated[
        str,
        typer.Option(
            help="NUMBERxACCELERATOR, 1 to 1024 of a shipped accelerator or of a JSON file. Two kinds: 64xh20+32xl40s."
        ),
    ] = "128xb200",
    workload: Annotated[
        str,
        typer.Option(
            help="chat, coding, agentic-coding, PREFIX/PROMPT/OUTPUT tokens, or any workload that afdjax plan accepts."
        ),
    ] = "chat",
    ttft: Annotated[
        str | None, typer.Option(help="Target time to the first token, such as 50ms, up to 1e9 s. Default: none.")
    ] = None,
    tpot: Annotated[
        str | None, typer.Option(help="Target time per output token, such as 15ms, up to 1e9 s. Default: none.")
    ] = None,
    objective: Annotated[
        choices.Objective, typer.Option(help="What is best: most throughput, or most for its price or power.")
    ] = choices.Objective["throughput"],
    tables: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>", help="Measured kernels of these devices: files or folders that afdjax calibrate reads."
        ),
    ] = None,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Fit the constants of the cost model to --tables instead of interpolating them."),
    ] = False,
    weights: Annotated[
        choices.Format | None,
        typer.Option(help="Format of all weights but embedding and head. Default: as the model is stored."),
    ] = None,
    cache: Annotated[choices.Format, typer.Option(help="Format of the KV cache.")] = choices.Format["fp8"],
    imbalance: Annotated[
        float,
        typer.Option(help="Work and incoming transfers of the busiest expert device over the mean, 1 to 10000."),
    ] = 1.0,
    skew: Annotated[
        float | None,
        typer.Option(
            help="Instead of --imbalance: draw tokens with expert popularity rank^-SKEW, 0 (uniform) to 10; 1 is Zipf."
        ),
    ] = None,
    accepted: Annotated[
        float, typer.Option(help="Tokens accepted per request and step, 1 to 1001 (speculative decoding).")
    ] = 1.0,
    drafted: Annotated[
        float,
        typer.Option(help="Tokens proposed per step beside the first, 0 to 1000, by the model's draft layers."),
    ] = 0.0,
    schedule: Annotated[
        choices.Schedule, typer.Option(help="How many stages overlap where FFN devices are apart.")
    ] = choices.Schedule["four-stage"],
    routes: Annotated[
        choices.Routes, typer.Option(help="How many copies of a token travel to its experts.")
    ] = choices.Routes["per-node"],
    rule: Annotated[
        list[choices.Rule] | None,
        typer.Option(metavar=choices.metavar(choices.Rule), help="Allow only such sizes (repeat for more rules)."),
    ] = None,
    with_attention: Annotated[
        str,
        typer.Option(help="What runs on the attention devices: of router, shared, dense, joined by commas; or none."),
    ] = "router,dense",
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Rank the constants by their effect.")] = False,
    output: Annotated[
        Path | None, options.output("Write the best plan with FFN devices as profile and bundle (JSON).")
    ] = None,
    level: Annotated[
        choices.AfdLevel | None, typer.Option(help="With -o: the level whose plan is written. Default: the better one.")
    ] = None,
    plot: Annotated[Path | None, options.plot("throughput against interactivity")] = None,
    json: options.Json = False,
) -> None:
    """Find the best plan of each level of disaggregation.

    Levels: aggregated, prefill and decode apart, attention and FFN apart, or both, all under the same targets.
    """
    prepare()
    import dataclasses
    from concurrent.futures import ThreadPoolExecutor

    from afdjax.explore import Fleet, Network, Setting, Targets, load_model, search
    from afdjax.explore.costs.network import ROUTES
    from afdjax.explore.costs.schedule import SCHEDULES
    from afdjax.explore.explain.facts import facts_ahead
    from afdjax.explore.plans.candidates import evaluation_ahead
    from afdjax.hardware.files import load_accelerator
    from afdjax.report.exploration import exploration_report

    ends = {name: f"{name} of --workload" for name in ("prefix", "prompt", "output")}
    # logs with other columns go through their summary
    of_log = {"prompt_column": "--prompt-column", "decode_column": "--decode-column of afdjax summarize"}
    of_log["skip_bad_rows"] = "--skip-bad-rows of afdjax summarize"
    named = naming(explore, **ends, **of_log, devices="--gpus", rules="--rule")
    with refusing(named):
        if level is not None and output is None:
            raise Refusal("--level says whose plan -o writes: give -o as well.")
        for target, suffix in ((plot, ".png"), (output, ".json")):
            if target is not None:
                check_target(target, suffix)
        counts, parts = zip(*_pools_of(gpus), strict=True)
        chosen = load_model(model)
        if weights is not None:
            chosen = dataclasses.replace(chosen, formats=(str(weights),) * 3)
        kinds = [load_accelerator(part) for part in parts]
        setting = Setting(
            chosen, kinds[0], kinds[-1], _requests(workload), imbalance=_imbalance(chosen, imbalance, skew),
            cache=str(cache), with_attention=() if with_attention == "none" else tuple(with_attention.split(",")),
            accepted=accepted, drafted=drafted,
            schedule=SCHEDULES[str(schedule)], network=Network(routes=ROUTES[str(routes)]),
        )  # fmt: skip
        if fit and (not tables or len(kinds) > 1):
            raise Refusal("--fit needs --tables of one kind of device.")
        if tables:
            from afdjax.explore.measurements.constants import with_fitted_constants
            from afdjax.explore.measurements.tables import with_tables

            setting = with_fitted_constants(setting, tables) if fit else with_tables(setting, tables)
        targets = Targets(_duration("--ttft", ttft), _duration("--tpot", tpot))
        fleet = Fleet.of(setting, counts)
        # the first is compiled while the second is traced, and that while the search runs; a refusal waits for neither
        beside = ThreadPoolExecutor(1)
        evaluation_ahead(beside, setting, fleet)
        facts_ahead(beside, setting, fleet)
        rules = [str(one) for one in rule or ()]
        found = search(setting, fleet, targets, objective=str(objective), rules=rules)
        beside.shutdown()
        found = dataclasses.replace(found, inputs=_inputs(model, parts, workload, tables, skew))
        # the ranking of constants that people read leaves the model's shape out
        document = found.to_dict(sensitivity, of_model=json)
        document["advice"] = [renamed(advice, named) for advice in document["advice"]]
        if plot is not None:
            save_figure(plot, lambda module: module.exploration_figure(document))
        written = None if output is None else _written(found, output, level, workload)
    print(dumps(document, indent=2, allow_nan=False) if json else exploration_report(document))
    if output is not None and written is None:
        raise no_plan(
            f"{output} was not written: it would hold a plan with FFN devices. {renamed(_why_not_written(found, level), named)}"
        )
    if document["best"] is None:
        raise no_plan(document["advice"][0])
    if written is not None and not json:
        print(f"\n{written}")


def _imbalance(model, factor: float, skew: float | None):
    import jax

    from afdjax.explore.costs.routing import Even, drawn, zipf
    from afdjax.explore.models.ffn import Experts

    experts = [part.ffn for part in model.layers if isinstance(part.ffn, Experts)]
    if skew is None or not experts:
        return Even(factor)
    if factor != 1.0:
        raise Refusal("--imbalance and --skew say the same in two ways: give one of them.")
    if not 0.0 <= skew <= 10.0:
        raise Refusal(f"--skew must be from 0 (all experts alike) to 10, but it is {skew:g}.")
    return drawn(jax.random.key(0), experts[0], zipf(int(experts[0].experts), skew))


def _inputs(
    model: str, accelerators: Sequence[str], workload: str, tables: Sequence[Path] | None, skew: float | None
) -> dict[str, Any]:
    """Names and files that were asked for, with digests of their contents, and the option that a setting does not keep."""
    from afdjax._tools.provenance import digest
    from afdjax._tools.shipped import Shipped

    def source(folder: str, name: str) -> dict[str, str | None]:
        shipped = Shipped(folder, "", "").document(name)
        if shipped is not None:
            return {"name": name, "digest": digest(shipped.encode())}
        return {"name": name, "digest": digest(Path(name).read_bytes()) if Path(name).is_file() else None}

    files = [file for table in tables or () for file in (sorted(table.rglob("*")) if table.is_dir() else [table])]
    return {
        "model": source("models", model),
        "accelerators": [source("accelerators", name) for name in accelerators],
        "workload": source("workloads", workload),
        "tables": [source("", str(file)) for file in files if file.is_file()],
        "skew": skew,
    }


def _written(found, output: Path, chosen: str | None, workload: str) -> str | None:
    """Write the best plan with FFN devices (of the chosen level), and say how to plan with it; None where there is none."""
    from afdjax.deployment.files import profile_to_json
    from afdjax.explore import as_bundle

    plans = [level.plan for level in _levels_with_ffn_devices(found, chosen) if level.plan]
    if not plans:
        return None
    best = max(plans, key=lambda plan: plan.value)
    part = next(part for part in reversed(best.parts) if float(part.replica.ffn_devices))
    profile, bundle, workers = as_bundle(found.question.placed(part.place), part.replica, output.stem)
    write(output, profile_to_json(profile, bundle).encode())
    command = shlex.join(["afdjax", "plan", "--profile", str(output), "--workload", _workload_of_plan(workload)])
    beside = f"{workers} attention workers of {bundle.attention_weight:g} beside {bundle.ffn_weight:g} devices as one FFN worker"
    how = "To plan with it, whatever the targets and the number of devices:"
    return f"wrote {output} ({best.level}, {beside}).\n{how}\n  {command}"


def _why_not_written(found, chosen: str | None) -> str:
    from afdjax.explore.plans.plan import why_no_plan

    return why_no_plan(_levels_with_ffn_devices(found, chosen))


def _levels_with_ffn_devices(found, chosen: str | None) -> list[Any]:
    return [level for level in found.levels if level.name in ([chosen] if chosen else list(choices.AfdLevel))]


def _pools_of(gpus: str) -> list[tuple[int, str]]:
    """Numbers and accelerators: one, or two joined by +."""
    found = [re.fullmatch(r"(\d{1,9})x(.+)", kind) for kind in re.split(r"\+(?=\d+x)", gpus)]
    if not all(found) or len(found) > 2:
        raise Refusal(
            f"--gpus must be a number and an accelerator such as 128xb200, or two such as 64xh20+32xl40s, but it is {gpus}."
        )
    return [(int(match[1]), match[2]) for match in found if match]


def _duration(name: str, text: str | None) -> float:
    if text is None:
        return float("inf")
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(us|ms|s)", text)
    time = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1e-9 <= time <= 1e9:
        raise Refusal(
            f"{name} must be a time from 1e-9s to 1e9s with its unit such as 50ms or 0.5s, but it is {reprlib.repr(text)}."
        )
    return time


def _requests(workload: str):
    import afdjax
    from afdjax.explore.costs.setting import use_case_of

    return _use_case(workload) or use_case_of(afdjax.load_workload(workload))


def _use_case(workload: str):
    """A use case by its name or its lengths; None for what `afdjax plan` accepts."""
    from afdjax.explore.costs.setting import USE_CASES, UseCase

    if workload in USE_CASES:
        return USE_CASES[workload]
    if not re.fullmatch(r"\d+/\d+/\d+", workload):
        return None
    prefix, prompt, output = map(float, workload.split("/"))
    return UseCase(prefix, prompt, output)


def _workload_of_plan(workload: str) -> str:
    """The same requests for `afdjax plan`, to which a prefix in the cache is a part of the prompt."""
    lengths = _use_case(workload)
    return workload if lengths is None else f"fixed:{lengths.prefix + lengths.prompt:.0f},{lengths.output:.0f}"
