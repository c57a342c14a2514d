"""Many fits at once: lanes (series x forms x starts) run in blocks of one size, so that each program is compiled once."""

import functools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Array, Float

from afdjax.calibrate.kernels import family, optimise
from afdjax.calibrate.kernels.family import Points
from afdjax.calibrate.kernels.samples import Samples


_BLOCK_POINTS = 8_192


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
    return jax.vmap(family.time_at)(values, tokens, batch_size)


class BatchedFits(optimise.Fits):
    """Fits of one size (lanes), which run in blocks through the three programs of `optimise`."""

    def __init__(self, size: int, fixed: np.ndarray, points: Points):
        self.size, self.fixed, self.points = size, fixed, points
        self.block = lanes_at_once(size, len(fixed))

    def begin(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._blocks("begin", starts)

    def finish(
        self, parameters: np.ndarray, scales: np.ndarray, power: float, steps: int = optimise.FINISH_STEPS
    ) -> tuple[np.ndarray, np.ndarray]:
        every = np.ones(len(self.fixed))
        return self._blocks("finish", parameters, scales, power * every, steps * every)

    def assess(self, parameters: np.ndarray) -> optimise.Assessment:
        return self._blocks("assess", parameters)

    @property
    def weight(self) -> np.ndarray:
        return self.points.weight

    def _blocks(self, name: str, parameters: np.ndarray, *extra: np.ndarray):
        program = _program(name, self.size, self.block)
        outputs = []
        for first in range(0, len(self.fixed), self.block):
            # the last block is filled up with copies of its last lane
            rows = np.minimum(np.arange(first, first + self.block), len(self.fixed) - 1)
            points = Points(*(column[rows] for column in self.points))
            output = program(parameters[rows], self.fixed[rows], points, *(column[rows] for column in extra))
            kept = min(self.block, len(self.fixed) - first)
            outputs.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[:kept], output))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def compile_ahead(needs: Iterable[tuple[int, int]]) -> None:
    """Compile the programs for these (size, lanes) on all cores."""
    wanted = {(name, size, lanes_at_once(size, lanes)) for size, lanes in needs for name in _EXTRAS}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # two programs must not run at once (they would wait for each other's threads), but they may be compiled so
        list(pool.map(lambda key: _program(*key), sorted(wanted)))


_EXTRAS = {"begin": 0, "finish": 3, "assess": 0}
"""The programs of `optimise` that run over lanes, and how many numbers for each lane they take besides its points."""


@functools.cache
def _program(name: str, size: int, block: int):
    # the setting is one of each thread
    with jax.enable_x64(True):
        terms = jax.ShapeDtypeStruct((block, len(family.TERMS)), float)
        points = Points(*[jax.ShapeDtypeStruct((block, size), float)] * 4)
        extra = [jax.ShapeDtypeStruct((block,), float)] * _EXTRAS[name]
        return jax.jit(jax.vmap(getattr(optimise, name))).lower(terms, terms, points, *extra).compile()


def lanes_at_once(size: int, lanes: int) -> int:
    """One of two block sizes: compiling for a few series must not take longer than running many small blocks."""
    return 16 if lanes <= 512 else _BLOCK_POINTS // size
