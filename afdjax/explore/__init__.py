"""The design space of serving a mixture of experts: which level of disaggregation, with which split of devices."""

from afdjax.explore.costs.kernels import Efficiency as Efficiency
from afdjax.explore.costs.network import Network as Network
from afdjax.explore.costs.setting import USE_CASES as USE_CASES, Setting as Setting, UseCase as UseCase
from afdjax.explore.explain.handover import as_bundle as as_bundle
from afdjax.explore.explain.sensitivity import (
    elasticities as elasticities,
    margins as margins,
    model_elasticities as model_elasticities,
)
from afdjax.explore.explain.uses import Use as Use, use_of as use_of
from afdjax.explore.exploration import Exploration as Exploration, search as search
from afdjax.explore.models.files import (
    from_config as from_config,
    load_model as load_model,
    shipped_models as shipped_models,
)
from afdjax.explore.models.model import Model as Model
from afdjax.explore.plans.fleet import Fleet as Fleet
from afdjax.explore.plans.plan import Level as Level, PlanPart as PlanPart, ServingPlan as ServingPlan
from afdjax.explore.plans.question import Corrections as Corrections, Question as Question, Targets as Targets
from afdjax.explore.plans.replica import Replica as Replica
