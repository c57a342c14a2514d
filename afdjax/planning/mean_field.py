"""The mean-field closed form of the ratio, with its regimes and all of its candidates.

For affine FFN and communication times and the mean token load, the cycle max{t_A, t_C, t_F} is piecewise linear in r, and
throughput per instance is best at a corner of it or at the stationary point of one of its lines.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.forms import Affine
from afdjax.deployment.profile import Profile, Shared
from afdjax.workload.lengths import LARGEST_MEAN


REGIMES = ("attention", "communication", "ffn")


class ClosedForm(Module):
    """The mean-field ratio and where it comes from. All ratios are r = x / y and may lie outside what can be built.

    - `ratio`: r*, the best of the candidates.
    - `ratio_attention`: where the FFN takes as long as attention, eq 15 of the paper.
    - `ratio_communication`: where communication ceases to be the bottleneck: with a link per worker, where the FFN takes as
      long as the transfer (eq 16); with a shared link, where the link takes as long as attention.
    - `ratio_peak`: the stationary point sqrt(base / slope) of the FFN-bound branch, eq 18.
    - `ratio_link_peak`, `ratio_crossing`: shared link only (else NaN): the stationary point of the link-bound branch,
      and where link and FFN take equally long.
    - `decided_by`: index into `REGIMES` of the stage that sets r*.

        >>> form = afd.closed_form(workload.theta, profile, bundle)
        >>> round(float(form.ratio), 1), form.regime
        (22.0, 'attention')
    """

    ratio: Scalar
    ratio_attention: Scalar
    ratio_communication: Scalar
    ratio_peak: Scalar
    ratio_link_peak: Scalar
    ratio_crossing: Scalar
    decided_by: Int[Array, ""]

    @property
    def regime(self) -> str:
        """The stage that sets r*: `attention`, `communication` or `ffn`. Needs concrete values."""
        return REGIMES[int(self.decided_by)]


@checked
def closed_form(slot_load: ScalarLike, profile: Profile, bundle: Bundle) -> ClosedForm:
    """The paper's mean-field rule for a mean token load (or cost) of `slot_load` per slot [tokens].

    arXiv:2601.21351 v1 eqs 15-19 for `PerWorker` communication, its v2+ candidates for `Shared`; y FFN workers and
    instance weights are added (they move the stationary points only). Use `workload.theta` for the stationary load or
    `horizon_load(...)` for the paper's finite horizon. Raises `TypeError` if FFN or communication is not `Affine`.

        >>> round(float(afd.closed_form(599.0, profile, bundle).ratio), 2)
        9.55
    """
    ffn, link = profile.ffn, profile.communication.latency
    if not (isinstance(ffn, Affine) and isinstance(link, Affine)):
        raise TypeError(
            "The closed form must have `Affine` FFN and communication times, but the profile has "
            f"`{type(ffn).__name__}` and `{type(link).__name__}`: use `optimal_ratio`, which takes every form."
        )
    batch = bundle.batch_size
    attention = profile.attention(batch * slot_load, batch)
    weight = bundle.ffn_weight / bundle.attention_weight
    nan = jnp.full_like(attention, jnp.nan)

    ratio_attention = (attention - ffn.base) / (ffn.per_token * batch)
    ratio_peak = jnp.sqrt(ffn.base * weight / (ffn.per_token * batch))
    if isinstance(profile.communication, Shared):
        slope = link.per_token * batch * bundle.ffn_workers
        ratio_communication = (attention - link.base) / slope
        ratio_link_peak = jnp.sqrt(link.base * weight / slope)
        ratio_crossing = (link.base - ffn.base) / (ffn.per_token * batch - slope)
        candidates = [ratio_attention, ratio_communication, ratio_peak, ratio_link_peak, ratio_crossing]
        deciders = jnp.asarray([0, 1, 2, 1, 1])
    else:
        ratio_communication = (link(batch, batch) - ffn.base) / (ffn.per_token * batch)
        ratio_link_peak = ratio_crossing = nan
        candidates = [ratio_attention, ratio_communication, ratio_peak]
        deciders = jnp.asarray([0, 1, 2])

    ratios = jnp.stack(candidates)
    usable = jnp.isfinite(ratios) & (ratios > 0)
    trial = jnp.where(usable, ratios, 1.0)
    stages = lambda r: jnp.maximum(ffn(r * batch, batch), profile.communication(batch, r * bundle.ffn_workers))
    cycle = jnp.maximum(attention, jax.vmap(stages)(trial))
    value = jnp.where(usable, trial / ((trial + weight) * cycle), -jnp.inf)
    best = jnp.argmax(value)
    return ClosedForm(
        ratio=ratios[best],
        ratio_attention=ratio_attention,
        ratio_communication=ratio_communication,
        ratio_peak=ratio_peak,
        ratio_link_peak=ratio_link_peak,
        ratio_crossing=ratio_crossing,
        decided_by=deciders[best],
    )


@checked
def horizon_load(
    prompt_mean: ScalarLike, decode_mean: ScalarLike, batch_size: ScalarLike, requests: ScalarLike
) -> Scalar:
    """Average token load of one slot over the paper's horizon, from a cold start [tokens].

    arXiv:2601.21351 v1, eq 13 with its eqs 9-12 summed exactly: `requests` completions of a worker of `batch_size` slots
    take K = requests / (batch_size p) steps, p = 1 / decode_mean; all ages start at zero, so

        load = prompt_mean + (decode_mean - 1) (1 - (1 - (1 - p)^K) / (p K)).

    Geometric decode lengths only. It tends to the stationary theta = prompt_mean + decode_mean - 1 as `requests` grows; the
    paper's printed ratios use requests = 10,000. Its printed recipe prompt_mean + decode_mean counts one token more,
    because there a decode length D on 0, 1, ... takes D + 1 slot steps.

        >>> round(float(afd.horizon_load(100.0, 500.0, batch_size=256, requests=10_000)))
        586
    """
    for name, value in (("prompt_mean", prompt_mean), ("batch_size", batch_size), ("requests", requests)):
        checks.require_positive(name, value)
    checks.require_between("decode_mean", decode_mean, 1, LARGEST_MEAN)
    prompt_mean, decode_mean, batch_size, requests = map(
        checks.as_float, (prompt_mean, decode_mean, batch_size, requests)
    )
    end = 1.0 / decode_mean
    steps = requests / (batch_size * end)
    # 1 - (1 - p)^K, without cancellation
    started = -jnp.expm1(steps * jnp.log1p(-jnp.minimum(end, 1.0 - 1e-7)))
    return jnp.asarray(prompt_mean + (decode_mean - 1.0) * (1.0 - started / (end * steps)))
