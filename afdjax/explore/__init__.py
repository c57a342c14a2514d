"""The design space of serving a mixture of experts: which level of disaggregation, with which split of devices."""

from afdjax.explore.model import Model as Model
from afdjax.explore.model_files import (
    from_config as from_config,
    load_model as load_model,
    shipped_models as shipped_models,
)
