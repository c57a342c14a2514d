"""How the stages of a layer overlap when several microbatches are in flight."""

from collections.abc import Sequence

import jax.numpy as jnp

from afdjax._types import Scalar, ScalarLike


def pipelined(stages: Sequence[Scalar], in_flight: ScalarLike, layers: ScalarLike) -> Scalar:
    """Time [that of `stages`] in which `in_flight` microbatches pass `layers` layers with these stages each.

        max( L sum u,  m L u_max + sum u - u_max )

    the serial chain of one microbatch, or the slowest stage with the others as fill and drain. The second part is
    MegaScale-Infer (arXiv:2504.02263) eq 5, AIConfigurator's TPOT and arXiv:2605.28302 eq 1 (of stages that tie, all but one
    are filled); the first repairs them where m is below sum u / u_max.
    """
    once = sum(stages, jnp.zeros(()))
    longest = jnp.max(jnp.stack([jnp.asarray(stage, float) for stage in stages]))
    return jnp.maximum(layers * once, in_flight * layers * longest + once - longest)
