from .costs.kernels import Efficiency as Efficiency
from .costs.network import Network as Network, minimum_sparsity as minimum_sparsity
from .costs.setting import USE_CASES as USE_CASES, Setting as Setting, UseCase as UseCase, use_case_of as use_case_of
from .explain.handover import as_bundle as as_bundle
from .explain.sensitivity import (
    elasticities as elasticities,
    margins as margins,
    model_elasticities as model_elasticities,
)
from .explain.uses import Use as Use, use_of as use_of
from .exploration import Exploration as Exploration, search as search
from .models.files import (
    from_config as from_config,
    load_model as load_model,
    shipped_models as shipped_models,
)
from .models.model import Model as Model
from .plans.fleet import Fleet as Fleet
from .plans.plan import Level as Level, PlanPart as PlanPart, ServingPlan as ServingPlan
from .plans.question import Corrections as Corrections, Question as Question, Targets as Targets
from .replicas.replica import Replica as Replica
