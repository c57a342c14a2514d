"""How sure a plan is: intervals by the delta method, and what each source of errors gives to them."""

from typing import NamedTuple

import numpy as np

from afdjax._tools.types import Scalar
from afdjax.deployment.forms import SlotCost
from afdjax.deployment.profile import Profile
from afdjax.deployment.stages import STAGES
from afdjax.workload.estimation.errors import SamplingError, sampling_error
from afdjax.workload.laws import Workload
from afdjax.workload.slots import SlotLoad


TOKENS, COSTS = ("theta", "nu"), ("slot_cost.mean", "slot_cost.deviation")
"""What moments of a slot are called: those of its tokens, and those of what it costs where that is something else."""


class Covariances(NamedTuple):
    """Sampling covariance of the two of what a slot holds or costs, None where there is none, and the profile with that of its
    coefficients."""

    slot: np.ndarray | None
    profile: Profile

    def interval(
        self, value: float, elasticities: dict[str, float], parameters: dict[str, Scalar]
    ) -> tuple[float, float] | None:
        """95 % interval of `value` by the delta method on its logarithm, so that it stays positive."""
        coefficients, covariance = tuple(self.profile.coefficients()), self.profile.covariance
        of_log = self._variance_by_log(elasticities, parameters)
        of_fit = (
            None if covariance is None else _variance(elasticities, parameters, coefficients, np.asarray(covariance))
        )
        if of_log is None and of_fit is None:
            return None
        factor = float(np.exp(1.96 * np.sqrt((of_log or 0.0) + (of_fit or 0.0))))
        return value / factor, value * factor

    def by_source(self, elasticities: dict[str, float], parameters: dict[str, Scalar]) -> dict[str, float | None]:
        """Relative standard deviation that the log and each stage give; None where no error of a source is stated."""
        names = list(self.profile.coefficients())
        variances = {"log": self._variance_by_log(elasticities, parameters)}
        for stage in STAGES:
            own = [i for i, name in enumerate(names) if name.startswith(f"{stage}.")]
            block = np.zeros((0, 0))
            if self.profile.covariance is not None:
                block = np.asarray(self.profile.covariance)[np.ix_(own, own)]
            of_stage = tuple(names[i] for i in own)
            # a stage that was taken from elsewhere has no errors, not errors of zero
            variances[stage] = _variance(elasticities, parameters, of_stage, block) if block.any() else None
        return {name: None if variance is None else float(np.sqrt(variance)) for name, variance in variances.items()}

    def _variance_by_log(self, elasticities: dict[str, float], parameters: dict[str, Scalar]) -> float | None:
        if self.slot is None:
            return None
        return sum(_variance(elasticities, parameters, names, self.slot) for names in (TOKENS, COSTS))


def _variance(
    elasticities: dict[str, float], parameters: dict[str, Scalar], names: tuple[str, ...], covariance: np.ndarray
) -> float:
    """Of the logarithm of what has these elasticities by `parameters`, of which those of `names` have this covariance."""
    slopes = np.array(
        [
            elasticities[name] / float(parameters[name]) if name in elasticities and float(parameters[name]) else 0.0
            for name in names
        ]
    )
    return max(float(slopes @ covariance @ slopes), 0.0)


def covariances_of(workload: SlotLoad, profile: Profile) -> tuple[Covariances, SamplingError]:
    """Everything that is known of how sure inputs are, and of theta and nu of the workload."""
    if not isinstance(workload, Workload):
        return Covariances(None, profile), SamplingError(np.zeros((2, 2)), "not known")
    error, attention = sampling_error(workload), profile.attention
    slot = sampling_error(workload, attention.slot_cost) if isinstance(attention, SlotCost) else error
    return Covariances(slot.of_normal if slot.covariance.any() else None, profile), error
