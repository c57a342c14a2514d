"""A campaign from its question to its profile: what is measured on which device, how far it got, and what is fitted to it."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from afdjax._tools.checks import require_between, require_whole
from afdjax.cli.common import Stopped, say
from afdjax.simulation.requirements import MOST_SEED

from .campaign import Record, in_order, measure as measure_points, progress
from .models import MODELS, grid as grid_of
from .sweeps import Device, Place, dispatch, sweeps_of
from .timer import time_calls


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a campaign is asked: kind of device, model, operations, and where and how to measure."""

    device: str
    model: str | None = None
    operations: str | None = None
    output: Path | None = None
    quick: bool = False
    restart: bool = False
    seed: int = 0
    memory: float | None = None
    fit: bool = True

    def __post_init__(self):
        require_whole("seed", self.seed, 0, MOST_SEED)
        require_between("memory", 1.0 if self.memory is None else self.memory, 1e-6, 1e6)


def measure(asked: Asked) -> tuple[Record, Any]:
    """Time the operations of a model on a device, and fit a profile to them.

    Returns the files of the campaign and the `Calibration`, None where none was asked for or the model's own operations were not
    measured. Raises `ValueError` for what cannot be measured.
    """
    cpu = asked.device == "cpu"
    name = asked.model or ("small" if cpu else "deepseek-v3")
    names = _operations(asked.operations, name)
    place = _place(asked.device, asked.seed)
    limit = _memory_bytes(place.device) if asked.memory is None else asked.memory * 2**30
    layer = MODELS[name].sharded(place.element_bytes, limit / 2)
    grid = grid_of(cpu, asked.quick)
    sweeps = sweeps_of(layer, grid, names, place)
    title = _title(place.device)
    plan = {
        "device": title,
        "peer": place.peer is not None,
        "precision": place.dtype.name,
        "model": {"name": name, **dataclasses.asdict(layer)},
        "quick": asked.quick,
        "operations": names,
        "grid": dataclasses.asdict(grid),
        "seed": asked.seed,
    }
    everything = in_order(sweeps, asked.seed)
    fitting = [(one, point) for one, point in everything if one.needs(point) <= limit]
    left_out = {one.operation: sum(one.needs(point) > limit for point in one.points) for one in sweeps}
    record = Record(asked.output or Path(f"{name}-{asked.device}"))
    record.start(plan, _circumstances(limit, left_out, place), restart=asked.restart)
    finished = set(record.finished())
    todo = [(one, point) for one, point in fitting if (one.operation, point) not in finished]

    before = len(fitting) - len(todo)
    say(f"{title}, {place.dtype.name}, {name}: {len(fitting)} points, {before} of them measured before.")
    for operation, number in left_out.items():
        if number:
            say(f"left out: {number} points of {operation}, which need more than {limit / 2**30:.3g} GiB.")
    try:
        with progress(len(fitting), before, sys.stderr.isatty()) as done:
            limit_s = 0.5 if asked.quick else 2.0
            for text in measure_points(todo, record, title, place.dtype.name, done, limit_s=limit_s):
                say(f"left out: {text}, for which the device has no memory.")
    except KeyboardInterrupt:
        measured = len(record.finished())
        told = f"interrupted after {measured} of {len(fitting)} points: the same command goes on from there."
        raise Stopped(told) from None
    say(f"measured: {record.timings}")
    own = MODELS[name].own
    if asked.fit and set(own) <= set(names):
        sources = [one.operation for one in sweeps_of(layer, grid, own, place)]
        return record, fit_profile(record.timings, sources, f"{name}-{_slug(title)}", record.profile)
    if asked.fit:
        say(f"not fitted: a profile of {name} is made of {', '.join(own)}.")
    return record, None


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
        raise ValueError(f"measured, but not fitted: {error}") from None
    for stage, found in calibration.findings.items():
        for one in found:
            if one.alarm:
                say(f"do not trust {stage}: {one.text} Was the device in use? Measure again with --restart.")
    path.write_text(afdjax.profile_to_json(calibration.profile))
    return calibration


def _operations(chosen: str | None, name: str) -> list[str]:
    """The names in `chosen`, or those of which a profile of the model is made."""
    model = MODELS[name]
    names = [*model.own] if chosen is None else [*dict.fromkeys(chosen.split(","))]
    for one in names:
        if one not in model.operations:
            raise ValueError(f"`operations` must be of {', '.join(model.operations)} for {name}, but one is '{one}'.")
    return names


def _place(name: str, seed: int) -> Place:
    """The device of that kind and a second one, if there is one."""
    cpu = name == "cpu"
    # a process that uses JAX already keeps its settings: they are taken before it looks for devices
    with contextlib.suppress(RuntimeError):
        # calls of one burst must not run side by side
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        if cpu:
            jax.config.update("jax_platforms", "cpu")
            if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
                jax.config.update("jax_num_cpu_devices", 2)
    try:
        device, *others = jax.devices(name)
    except RuntimeError:
        known = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise ValueError(f"`device` must be a kind that JAX finds here ({known}), but it is {name}.") from None
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
