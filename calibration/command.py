"""The command of a campaign: what is measured on which device, how far it got, and the profile that is fitted to it."""

import contextlib
import dataclasses
import datetime
import enum
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from afdjax._tools.checks import require_between, require_whole
from afdjax.cli.common import in_options
from afdjax.simulation.requirements import MOST_SEED
from calibration.campaign import Record, Refusal, in_order, measure as measure_points, progress
from calibration.models import MODELS, grid as grid_of
from calibration.sweeps import Device, Place, dispatch, sweeps_of
from calibration.timer import time_calls


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

INTERRUPTED = 130


class DeviceName(enum.StrEnum):
    """Values of --device."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


class ModelName(enum.StrEnum):
    """Values of --model."""

    deepseek_v3 = "deepseek-v3"
    qwen3_235b = "qwen3-235b"
    small = "small"


@app.command(epilog="Example: python calibration/measure.py --device gpu --model qwen3-235b --output campaign")
def measure(
    device: Annotated[DeviceName, typer.Option(help="Kind of device: the first one that JAX finds is measured.")],
    model: Annotated[
        ModelName | None, typer.Option(help="Layers to measure. Default: small on a CPU, else deepseek-v3.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A coarse grid, and less time for each point.")] = False,
    operations: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, of gqa, mla, dense, experts, ragged, communication, as the model has them. "
            "Default: the three of its profile."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the campaign. Default: MODEL-DEVICE.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of points and of the data, 0 to 4294967295.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on with what is in the folder, or begin anew.")
    ] = True,
    memory: Annotated[
        float | None, typer.Option(help="Use at most so much memory [GiB], 1e-6 to 1e6. Default: what the device has.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit/--no-fit", help="Fit a profile at the end.")] = True,
) -> None:
    """Time decode attention, FFN and communication on a device: timings.csv, campaign.json and profile.json."""
    name = (model.value if model else None) or ("small" if device is DeviceName.cpu else "deepseek-v3")
    names = _operations(operations, name)
    try:
        require_whole("seed", seed, 0, MOST_SEED)
        require_between("memory", 1.0 if memory is None else memory, 1e-6, 1e6)
    except ValueError as error:
        raise Refusal(in_options(str(error))) from None
    place = _place(device, seed)
    limit = _memory_bytes(place.device) if memory is None else memory * 2**30
    layer = MODELS[name].sharded(place.element_bytes, limit / 2)
    grid = grid_of(device is DeviceName.cpu, quick)
    sweeps = sweeps_of(layer, grid, names, place)
    title = _title(place.device)
    plan = {
        "device": title,
        "peer": place.peer is not None,
        "precision": place.dtype.name,
        "model": {"name": name, **dataclasses.asdict(layer)},
        "quick": quick,
        "operations": names,
        "grid": dataclasses.asdict(grid),
        "seed": seed,
    }
    everything = in_order(sweeps, seed)
    fitting = [(one, point) for one, point in everything if one.needs(point) <= limit]
    left_out = {one.operation: sum(one.needs(point) > limit for point in one.points) for one in sweeps}
    record = Record(output or Path(f"{name}-{device.value}"))
    record.start(plan, _circumstances(limit, left_out, place), restart=not resume)
    finished = set(record.finished())
    todo = [(one, point) for one, point in fitting if (one.operation, point) not in finished]

    before = len(fitting) - len(todo)
    _say(f"{title}, {place.dtype.name}, {name}: {len(fitting)} points, {before} of them measured before.")
    for operation, number in left_out.items():
        if number:
            _say(f"left out: {number} points of {operation}, which need more than {limit / 2**30:.3g} GiB.")
    try:
        with progress(len(fitting), before, sys.stderr.isatty()) as done:
            limit_s = 0.5 if quick else 2.0
            for text in measure_points(todo, record, title, place.dtype.name, done, limit_s=limit_s):
                _say(f"left out: {text}, for which the device has no memory.")
    except KeyboardInterrupt:
        measured = len(record.finished())
        _say(f"interrupted after {measured} of {len(fitting)} points: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    _say(f"measured: {record.timings}")
    own = MODELS[name].own
    if fit and set(own) <= set(names):
        sources = [one.operation for one in sweeps_of(layer, grid, own, place)]
        print(fit_profile(record.timings, sources, f"{name}-{_slug(title)}", record.profile))
        _say(f"fitted: {record.profile}")
    elif fit:
        _say(f"not fitted: a profile of {name} is made of {', '.join(own)}.")


def fit_profile(timings: Path, operations: list[str], name: str, path: Path):
    """Fit a profile to the series of `operations` (attention, FFN, communication) in `timings`, and write it to `path`.

    What is measured here may be noisy, and is no invention: alarms are said, and the profile, unsure as it is, is written.
    """
    # measured in the precision of the device, fitted in double
    jax.config.update("jax_enable_x64", True)
    import afdjax
    from afdjax.calibrate import FitOptions, fit, load_timings
    from afdjax.calibrate.timings import Timings

    try:
        measured = load_timings(timings)
        own = Timings.join([measured.select(operation_contains=operation) for operation in operations])
        calibration = fit(
            own,
            name=name,
            source=f"{timings.name} of {timings.absolute().parent.name}",
            options=FitOptions(accept_implausible=True),
        )
    except ValueError as error:
        raise Refusal(f"measured, but not fitted: {error}") from None
    for stage, found in calibration.findings.items():
        for one in found:
            if one.alarm:
                _say(f"do not trust {stage}: {one.text} Was the device in use? Measure again with --restart.")
    path.write_text(afdjax.profile_to_json(calibration.profile))
    return calibration


def _operations(chosen: str | None, name: str) -> list[str]:
    """The names in `chosen`, or those of which a profile of the model is made."""
    model = MODELS[name]
    names = [*model.own] if chosen is None else [*dict.fromkeys(chosen.split(","))]
    for one in names:
        if one not in model.operations:
            raise Refusal(f"--operations: must be of {', '.join(model.operations)} for {name}, but one is '{one}'.")
    return names


def _place(name: DeviceName, seed: int) -> Place:
    """The device of that kind and a second one, if there is one."""
    cpu = name is DeviceName.cpu
    # a process that uses JAX already keeps its settings: they are taken before it looks for devices
    with contextlib.suppress(RuntimeError):
        # calls of one burst must not run side by side
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        if cpu:
            jax.config.update("jax_platforms", "cpu")
            if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
                jax.config.update("jax_num_cpu_devices", 2)
    try:
        device, *others = jax.devices(name.value)
    except RuntimeError:
        known = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise Refusal(f"--device: must be a kind that JAX finds here ({known}), but it is {name.value}.") from None
    dtype = jax.numpy.dtype(jax.numpy.float32 if cpu else jax.numpy.bfloat16)
    return Place(device, others[0] if others else None, dtype, seed)


def _memory_bytes(device: Device) -> float:
    """Memory that a campaign may use: most of what the device gives JAX, or a part of the host's."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return 0.8 * limit
    try:
        return 0.4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def _title(device: Device) -> str:
    """The name of the part, as it calls itself."""
    if device.platform != "cpu":
        return device.device_kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _circumstances(limit: float, left_out: dict[str, int], place: Place) -> dict[str, Any]:
    """What is worth knowing about a campaign and need not be the same when it is resumed."""
    return {
        "memory_limit_bytes": int(limit),
        "left_out": left_out,
        "dispatch_us": round(time_calls(dispatch(place)).median_us, 2),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
        "host": {"system": f"{platform.system()} {platform.machine()}", "cores": _cores()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cores() -> int | None:
    """Cores that this process may use (`taskset` allows fewer than there are)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _slug(text: str) -> str:
    """A device's name as a part of a profile's."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def _say(message: str) -> None:
    print(f"measure: {' '.join(message.split())}", file=sys.stderr)


def main() -> None:
    """Run the command; what it refuses is one line and exit status 2."""
    # typer may carry its own copy of click: take its base class of errors from there
    usage_error = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except Refusal as error:
        _say(str(error))
    except usage_error as error:  # pyright: ignore[reportGeneralTypeIssues]
        _say(error.format_message())  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(2)
