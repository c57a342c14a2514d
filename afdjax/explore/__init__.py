"""The design space of serving a mixture of experts: which level of disaggregation, with which split of devices."""

from afdjax.explore.costs.kernels import Efficiency as Efficiency
from afdjax.explore.costs.network import Network as Network
from afdjax.explore.costs.setting import Setting as Setting, UseCase as UseCase
from afdjax.explore.models.files import (
    from_config as from_config,
    load_model as load_model,
    shipped_models as shipped_models,
)
from afdjax.explore.models.model import Model as Model
from afdjax.explore.plans.exploration import Exploration as Exploration, Targets as Targets
from afdjax.explore.plans.levels import search as search
