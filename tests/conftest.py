"""Strict numerics for every test: double precision, no silent promotion, two devices, shapes enforced."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version


# benchmarks time what users run
BENCHMARKS = "--benchmark-only" in sys.argv

_FLAGS = ["--xla_force_host_platform_device_count=2"]
if not BENCHMARKS and version("jaxlib").startswith("0.10."):
    # tests compile far more than they run, and XLA's older emitters take two thirds of the time; only for versions that are
    # known to have this flag, because XLA ends a process for one that it does not know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])

# reports are as wide as files are
os.environ.pop("COLUMNS", None)

# what one process has compiled is compiled once for all workers, for the commands that they run, and for the next test run
_CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "afdjax-tests")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
from jaxtyping import install_import_hook


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

if not BENCHMARKS:
    # checks of shapes slow tracing down
    install_import_hook("afdjax", "beartype.beartype")

from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

import afdjax as afd
from afdjax.cli.main import main


@pytest.fixture(autouse=True, scope="module")
def optimised(request) -> None:
    """XLA optimises for modules with `OPTIMISED = True` only: it takes longer than most tests compute.

    Commands, in processes of their own, are compiled as users have them; `tests/test_documents.py` says how documents are.
    """
    plain = not BENCHMARKS and not getattr(request.module, "OPTIMISED", False)
    if plain != jax.config.read("jax_disable_most_optimizations"):
        jax.config.update("jax_disable_most_optimizations", plain)
        # programs in memory are found whichever way they were compiled
        jax.clear_caches()


MOST_MAPPINGS = 30_000
"""Half of what Linux gives a process: each compiled program takes some, and with none left LLVM ends the process."""


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Programs are dropped after a module when there are many; those that are needed again are read from the folder."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


LONGEST = (
    "test_notebooks_run",
    "test_python_in_the_readme_runs",
    "test_the_readmes_commands_measure_fit_and_plan",
)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """The longest tests first: begun last, one of them would keep one worker busy and the others waiting."""
    items.sort(key=lambda item: item.originalname not in LONGEST)


class Ended(NamedTuple):
    """What a command that has ended leaves."""

    status: object
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs `afdjax` with arguments in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["afdjax", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def run(command):
    """Runs a command that succeeds and says nothing on standard error; returns what it prints."""

    def call(*arguments: object) -> str:
        ended = command(*arguments)
        assert ended.status == 0, ended.err
        assert ended.err == ""
        return ended.out

    return call


@pytest.fixture
def refused(command, tmp_path):
    """Runs a command that is refused; returns its one line. Nothing else may come out or be left behind."""

    def call(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        ended = command(*arguments)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.count("\n") == 1
        assert ended.err.startswith("afdjax: ")
        assert sorted(tmp_path.rglob("*")) == before
        return ended.err

    return call


@pytest.fixture
def no_programs(tmp_path):
    """Nothing is compiled yet: a folder of its own, here that of kept programs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


hypothesis.settings.register_profile("afdjax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("afdjax")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LOGS = {
    "azure2023_code": "azure_llm_2023/AzureLLMInferenceTrace_code.csv",
    "azure2023_conv": "azure_llm_2023/AzureLLMInferenceTrace_conv.csv",
    "mooncake_conversation": "mooncake_fast25/conversation_trace_lengths.jsonl",
    "sharegpt_sarathi_8k": "sharegpt_lengths/sharegpt_8k_llama2.csv",
    "helix_shared_gpt": "sharegpt_lengths/sharegpt_helix.csv",
    "arxiv_summ_vidur": "arxiv_summarization_vidur/arxiv_summarization.csv",
    "apex_creation_llama": "apex_plus_traces/creation_llama.csv",
    "apex_lmsys_llama": "apex_plus_traces/lmsys_llama.csv",
    "servegen_deepseek-r1": "servegen/deepseek-r1_sample.csv.gz",
    "servegen_m-large": "servegen/m-large_sample.csv.gz",
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public traces, if it is there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared traces are not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session", params=list(LOGS))
def shared_log(request, shared_data) -> afd.Requests:
    """Every shared request log in turn."""
    return afd.load_trace(shared_data / LOGS[request.param])


@pytest.fixture(scope="session")
def geometric() -> afd.Independent:
    """The paper's workload: prompt mean 100, decode mean 500."""
    return afd.Independent(afd.Geometric(100.0), afd.Geometric(500.0))


@pytest.fixture(scope="session")
def profile() -> afd.Profile:
    """The paper's Table 2, communication per worker."""
    return afd.load_profile("deepseek-v3-ascend-910c")


@pytest.fixture(scope="session")
def shared_link(profile) -> afd.Profile:
    """The paper's Table 2, communication as one shared link."""
    return afd.Profile(profile.attention, profile.ffn, afd.Shared(profile.communication.latency), time_unit="cycle")
