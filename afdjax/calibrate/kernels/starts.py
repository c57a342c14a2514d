"""Many series at once: every form for every series, from every start, in few compiled programs.

Series are padded to one of three lengths, so that thousands of them need three sets of programs; lanes (series x forms x
starts) run in blocks of one size, so that each program is compiled once.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Array, Float

from afdjax.calibrate.kernels import family, optimise
from afdjax.calibrate.kernels.family import Form, Points
from afdjax.deployment.forms import Roofline


SIZES = (32, 256)
"""Numbers of points that series are padded to; longer ones are thinned evenly (the fit is judged on all of their points)."""
_TYPICAL = 0.1
"""Relative residual at which the loss that chooses between starts begins to flatten."""
_BLOCK_POINTS = 65_536
_STARTS = ((0.1, 0.5), (2.0, 1.5))
"""Saturation in medians of the tokens, and weights in least times, of each start."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Measured points of one series in the units of the user; `batch_size` is 1 where there is none."""

    tokens: np.ndarray
    batch_size: np.ndarray
    time: np.ndarray

    @property
    def size(self) -> int:
        """What this series is padded to."""
        return next((size for size in SIZES if len(self.tokens) <= size), SIZES[-1])

    @functools.cached_property
    def units(self) -> tuple[float, float, float]:
        """Tokens, slots and time that the fit calls 1."""
        return float(self.tokens.max()), float(self.batch_size.max()), float(np.exp(np.log(self.time).mean()))

    @functools.cached_property
    def coefficient_units(self) -> np.ndarray:
        """What the fit calls 1 of each term, in the order of `family.TERMS`."""
        tokens, slots, time = self.units
        units = {
            "saturation": tokens, "sharpness": 1.0, "per_token": time / tokens, "per_slot": time / slots,
            "per_context": time * slots / tokens, "per_recent": time / tokens, "window": tokens / slots,
        }  # fmt: skip
        return np.array([units.get(term, time) for term in family.TERMS])

    def padded(self, size: int) -> Points:
        """The points in scaled units, padded (or thinned) to `size`."""
        chosen = np.arange(len(self.tokens))
        if len(chosen) > size:
            order = np.lexsort((self.batch_size, self.tokens))
            chosen = order[np.linspace(0, len(order) - 1, size).round().astype(int)]
        tokens, slots, time = self.units
        pad = lambda values, unit: np.concatenate([values[chosen] / unit, np.ones(size - len(chosen))])
        weight = np.concatenate([np.ones(len(chosen)), np.zeros(size - len(chosen))])
        return Points(pad(self.tokens, tokens), pad(self.batch_size, slots), pad(self.time, time), weight)  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class Found:
    """One form fitted to one series, in scaled units, by the robust loss and (where asked for) levelled."""

    form: Form
    parameters: np.ndarray
    scale: float
    """Robust standard deviation of the relative residuals."""
    left_out: float
    """Root mean square of the leave-one-out relative residuals (each at most 100 %)."""


def search(series: Sequence[Samples], forms: Sequence[Sequence[Form]]) -> list[list[Found]]:
    """Each of the `forms` of each series fitted by the robust loss."""
    members = {size: [i for i, one in enumerate(series) if one.size == size] for size in SIZES}
    lanes = {size: [lane for i in own for lane in _lanes(i, forms[i])] for size, own in members.items() if own}
    prepare((size, len(own)) for size, own in lanes.items())
    found: list[list[Found]] = [[] for _ in series]
    for size, own in lanes.items():
        for i, fit in _search(size, series, own):
            found[i].append(fit)
    return found


def _lanes(i: int, forms: Sequence[Form]) -> list[tuple[int, Form, int]]:
    """(series, form, start); forms without weights to read have one basin: one start is enough."""
    return [(i, form, start) for form in forms for start in range(len(_STARTS) if "weights" in form.terms else 1)]


def _search(
    size: int, series: Sequence[Samples], lanes: Sequence[tuple[int, Form, int]]
) -> Iterator[tuple[int, Found]]:
    """The best start of each form of each series."""
    points = {i: series[i].padded(size) for i in {i for i, _, _ in lanes}}
    packed = Points(*(np.stack(column) for column in zip(*(points[i] for i, _, _ in lanes), strict=True)))
    run = Lanes(size, np.stack([form.mask for _, form, _ in lanes]), packed)
    begins = {i: _starts(own) for i, own in points.items()}
    starts = np.stack([begins[i][start] for i, _, start in lanes])
    parameters, scales = run.begin(starts)
    parameters = run.finish(parameters, optimise.EFFICIENT * scales, 1.0)
    judged = run.assess(parameters)
    loss = np.sum(np.log1p(np.square(judged.residuals / _TYPICAL)), axis=1)
    best: dict[tuple[int, Form], int] = {}
    for lane, (i, form, _) in enumerate(lanes):
        if (i, form) not in best or loss[lane] < loss[best[i, form]]:
            best[i, form] = lane
    for (i, form), lane in best.items():
        here = packed.weight[lane] > 0
        left_out = np.clip(judged.left_out[lane][here], -1.0, 1.0)
        scale = robust_scale(np.asarray(judged.residuals)[lane][here])
        yield i, Found(form, parameters[lane], scale, float(np.sqrt(np.mean(left_out**2))))


def predictions(samples: Sequence[Samples], coefficients: np.ndarray) -> list[np.ndarray]:
    """Times at every point of each series, for coefficients in the users' units, shape (series, terms): one program."""
    counts = [len(one.tokens) for one in samples]
    pad = lambda column: np.pad(
        column, (0, -len(column) % _BLOCK_POINTS if len(column) > 4096 else -len(column) % 512), mode="edge"
    )
    owner = pad(np.repeat(np.arange(len(samples)), counts))
    tokens, batch_size = (
        pad(np.concatenate([getattr(one, name) for one in samples])) for name in ("tokens", "batch_size")
    )
    times = np.asarray(_predict(coefficients[owner], tokens, batch_size))[: sum(counts)]
    return np.split(times, np.cumsum(counts)[:-1])


@jax.jit
def _predict(
    values: Float[Array, "points terms"], tokens: Float[Array, " points"], batch_size: Float[Array, " points"]
):
    return jax.vmap(lambda row, n, b: Roofline(*row)(n, b))(values, tokens, batch_size)


class Lanes:
    """Lanes of one size that run in blocks through the three programs of `optimise`."""

    def __init__(self, size: int, masks: np.ndarray, points: Points):
        self.size, self.masks, self.points = size, masks, points
        self.block = _block(size, len(masks))

    def begin(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._blocks("begin", starts)

    def finish(self, parameters: np.ndarray, scales: np.ndarray, level: float) -> np.ndarray:
        return self._blocks("finish", parameters, scales, np.full(len(self.masks), level))

    def assess(self, parameters: np.ndarray) -> optimise.Assessment:
        return self._blocks("assess", parameters)

    def _blocks(self, name: str, parameters: np.ndarray, *extra: np.ndarray):
        program = _program(name, self.size, self.block)
        outputs = []
        for first in range(0, len(self.masks), self.block):
            # the last block is filled up with copies of its last lane
            rows = np.minimum(np.arange(first, first + self.block), len(self.masks) - 1)
            points = Points(*(column[rows] for column in self.points))
            output = program(parameters[rows], self.masks[rows], points, *(column[rows] for column in extra))
            kept = min(self.block, len(self.masks) - first)
            outputs.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[:kept], output))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def prepare(needs: Iterable[tuple[int, int]]) -> None:
    """Compile the programs for these (size, lanes) on all cores."""
    wanted = {(name, size, _block(size, lanes)) for size, lanes in needs for name in _EXTRAS}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # two programs must not run at once (they would wait for each other's threads), but they may be compiled so
        list(pool.map(lambda key: _program(*key), sorted(wanted)))


_EXTRAS = {"begin": 0, "finish": 2, "assess": 0}
"""The programs of `optimise` that run over lanes, and how many numbers for each lane they take besides its points."""


@functools.cache
def _program(name: str, size: int, block: int):
    # the setting is one of each thread
    with jax.enable_x64(True):
        terms = jax.ShapeDtypeStruct((block, len(family.TERMS)), float)
        points = Points(*[jax.ShapeDtypeStruct((block, size), float)] * 4)
        extra = [jax.ShapeDtypeStruct((block,), float)] * _EXTRAS[name]
        return jax.jit(jax.vmap(getattr(optimise, name))).lower(terms, terms, points, *extra).compile()


def _block(size: int, lanes: int) -> int:
    """One of two block sizes: compiling for a few series must not take longer than running many small blocks."""
    return 16 if lanes <= 512 else _BLOCK_POINTS // size


def robust_scale(residuals: np.ndarray) -> float:
    return max(optimise.NORMAL_MAD * float(np.median(np.abs(residuals))), optimise.LEAST_SCALE)


def _starts(points: Points) -> np.ndarray:
    """Parameters to start from, for every form alike: the optimisers do not move what a form lacks."""
    real = points.weight > 0
    tokens, low, high = np.median(points.tokens[real]), points.time[real].min(), points.time[real].max()
    context = np.median(points.tokens[real] / points.batch_size[real])
    rows = []
    for saturation, weights in _STARTS:
        values = {
            "base": 0.5 * low, "weights": weights * low, "saturation": saturation * tokens, "sharpness": 2.0,
            "per_token": high, "per_slot": 0.1 * low, "per_context": 0.1 * low, "per_recent": 0.3 * high,
            "window": context,
        }  # fmt: skip
        rows.append([values[term] for term in family.TERMS])
    return family.parameters_of(np.asarray(rows))
