"""What the public objects of the package are: modules that refuse what they cannot hold and show what they do."""

from typing import Any

import equinox as eqx

from afdjax._tools.objects.arguments import check_fields
from afdjax._tools.objects.contracts import name_in_errors
from afdjax._tools.objects.showing import in_brief


def check_again(module: eqx.Module) -> None:
    """Check a module that was made from another one, without its constructor."""
    for kind in type(module).__mro__:
        if "__check_init__" in vars(kind):
            vars(kind)["__check_init__"](module)


class Module(eqx.Module):
    """A pytree whose fields are checked when it is made, and whose text is short.

    JAX makes pytrees anew around tracers and around leaves of all kinds without a constructor: nothing is checked then, and a
    text shows what is there.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        name_in_errors(cls)

    def __check_init__(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        return in_brief(self)
