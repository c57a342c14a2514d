"""What the planner needs to know of one decode slot: its stationary token load, and how fast that changes.

A slot that serves a request (P, D) holds P + a tokens at age a; `afdjax.workload.laws` derives all this from a joint law of
(P, D). A slot known by its moments alone, or another one's moved to other moments, will do as well.
"""

import abc
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike


Cost = Callable[[ScalarLike], ScalarLike]
"""What a slot costs, by the tokens of its context."""


@advised("afd.load_workload('azure-2023-conversation')", from_text="afd.load_workload({})")
class SlotLoad(Module):
    """What the planner needs to know of one decode slot: its stationary token load.

    A `Workload` (what `load_workload` returns), `Moments`, `Rescaled`, or a slot of your own, which has

    - `theta`, `nu`: mean and standard deviation [tokens], single floats that carry derivatives;
    - `variation`: how roughly the load moves, or None where that is not known;
    - `costs`, `unscaled`, `slot_masses`, `slot_range`: its law, for `Exact` and for attention that goes by what slots cost; a
      slot that has none raises an error there, and `MeanField` and `Gaussian` do without.

    Random requests are drawn from a `Workload` only. A slot whose load is known to be uniform:

    ```python
    >>> import afdjax as afd, jax.numpy as jnp
    >>> class UniformLoad(afd.SlotLoad):
    ...     most: float
    ...     @property
    ...     def theta(self):
    ...         return jnp.asarray(self.most / 2.0)
    ...     @property
    ...     def nu(self):
    ...         return jnp.asarray(self.most / 12.0**0.5)
    ...     @property
    ...     def variation(self):
    ...         return None
    ...     @property
    ...     def unscaled(self):
    ...         return self
    ...     def costs(self, cost):
    ...         raise NotImplementedError("only token loads are known")
    ...     def slot_masses(self, first, width, points):
    ...         raise NotImplementedError("use MeanField() or Gaussian()")
    ...     def slot_range(self):
    ...         return jnp.zeros(()), jnp.asarray(self.most)
    >>> float(afd.MeanField().worker_load(UniformLoad(1000.0), 64.0).mean)
    32000.0

    ```
    """

    @property
    @abc.abstractmethod
    def theta(self) -> Scalar:
        """Mean of the stationary token load of one slot [tokens]."""

    @property
    @abc.abstractmethod
    def nu(self) -> Scalar:
        """Standard deviation of the stationary token load of one slot [tokens]."""

    @property
    @abc.abstractmethod
    def variation(self) -> Scalar | None:
        """Quadratic variation of the token load of one slot per decode step [tokens^2 / step], None where unknown.

        How fast the load forgets: over n steps, few beside a decode, it moves by sqrt(n variation) in the root mean square.
        """

    @abc.abstractmethod
    def costs(self, cost: Cost) -> "SlotLoad":
        """The law of what the slot costs, where a context of c tokens costs `cost(c)` (in any unit)."""

    @property
    @abc.abstractmethod
    def unscaled(self) -> "SlotLoad":
        """A slot load of the same shape, whose loads are whole tokens."""

    @abc.abstractmethod
    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        """The law of an `unscaled` load on the nodes `first` + `width` k [tokens], k < `points`, which must cover it.

        `first` is a whole number, `width` one or the inverse of one. A load between two nodes counts for both, so that
        the mean stays (`afdjax.workload.lattice`).
        """

    @abc.abstractmethod
    def slot_range(self) -> tuple[Scalar, Scalar]:
        """Whole numbers of tokens between which all loads lie."""


class _GivenMoments(SlotLoad):
    """A slot load whose mean and standard deviation were given. Abstract."""

    _theta: Scalar
    _nu: Scalar

    @property
    def theta(self) -> Scalar:
        return self._theta

    @property
    def nu(self) -> Scalar:
        return self._nu


class Moments(_GivenMoments):
    """A slot load known by its mean and standard deviation alone: enough for `MeanField` and `Gaussian`.

    **Arguments:** `theta` (0.001 to 1e9) and `nu` (0 to 1e9) [tokens], scalars (batch them with `jax.vmap`).

        >>> loads = afd.Moments(theta=1226.0, nu=713.0)
        >>> round(float(afd.cycle_time(loads, profile, bundle, 20, afd.Gaussian())))
        593
    """

    @checked
    def __init__(self, theta: ScalarLike, nu: ScalarLike):
        checks.require_between("theta", theta, 1e-3, 1e9)
        checks.require_between("nu", nu, 0, 1e9)
        self._theta = checks.as_float(theta)
        self._nu = checks.as_float(nu)

    @property
    def variation(self) -> None:
        return None

    def costs(self, cost: Cost) -> SlotLoad:
        raise TypeError(
            "`workload` must know the law of a slot's context where attention goes by what each slot costs, but `Moments` has "
            "only theta and nu: give a `Workload`."
        )

    @property
    def unscaled(self) -> "Moments":
        return self

    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        raise self._without_law()

    def slot_range(self) -> tuple[Scalar, Scalar]:
        raise self._without_law()

    def _without_law(self) -> TypeError:
        return TypeError(
            "`workload` must know the law of a slot's tokens for the exact barrier, but `Moments` has only theta and nu: use "
            "`Gaussian()`, or give a `Workload`."
        )


class Rescaled(_GivenMoments):
    """The slot load of `base`, moved and stretched to another mean and standard deviation.

    For derivatives with respect to `theta` and `nu` (0 to 1e30): the shape of the law in standard units is kept.

        >>> longer = afd.Rescaled(workload, 1.1 * workload.theta, workload.nu)
        >>> round(float(longer.theta / workload.theta), 3)
        1.1
    """

    base: SlotLoad

    @checked
    def __init__(self, base: SlotLoad, theta: ScalarLike, nu: ScalarLike):
        checks.require_non_negative("theta", theta)
        checks.require_non_negative("nu", nu)
        self.base = base
        self._theta = checks.as_float(theta)
        self._nu = checks.as_float(nu)

    @property
    def variation(self) -> Scalar | None:
        known = self.base.variation
        return None if known is None else known * self._stretch() ** 2

    def costs(self, cost: Cost) -> SlotLoad:
        return self.base.costs(lambda context: cost(self._theta + (context - self.base.theta) * self._stretch()))

    def _stretch(self) -> Scalar:
        spread = self.base.nu
        return jnp.where(spread > 0, self._nu / jnp.where(spread > 0, spread, 1.0), 1.0)

    @property
    def unscaled(self) -> SlotLoad:
        return self.base.unscaled

    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        return self.unscaled.slot_masses(first, width, points)

    def slot_range(self) -> tuple[Scalar, Scalar]:
        low, high = self.base.slot_range()
        move = lambda load: self._theta + (load - self.base.theta) * self._stretch()
        return move(low), move(high)
