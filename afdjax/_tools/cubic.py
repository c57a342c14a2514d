"""The cubic on one interval with given values and slopes at its ends (Hermite)."""

from jaxtyping import Array, Float


def cubic(
    share: Float[Array, "..."],
    values: tuple[Float[Array, "..."], Float[Array, "..."]],
    rises: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> Float[Array, "..."]:
    """Its value at `share` of the interval, from 0 to 1; `rises` are the slopes at the ends times the interval's width."""
    rest = 1.0 - share
    return (
        (1.0 + 2.0 * share) * rest**2 * values[0]
        + share**2 * (3.0 - 2.0 * share) * values[1]
        + share * rest**2 * rises[0]
        - share**2 * rest * rises[1]
    )
