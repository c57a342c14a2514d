"""The house: what may stand in a folder, which way arrows point, no override of a concrete method, a face that types."""

import importlib
import inspect
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

import afdjax


PACKAGE = Path(afdjax.__file__).parent
AT_ROOT = {"__init__.py", "__init__.pyi", "py.typed", "__main__.py"}


def dotted(path: Path) -> str:
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = sorted(dotted(path) for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


@pytest.mark.parametrize("name", MODULES)
def test_every_dotted_path_is_a_module(name):
    """By import and by attributes: no package exports a name that is one of its modules."""
    module = importlib.import_module(name)
    found = afdjax
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    assert isinstance(found, types.ModuleType)
    assert found is module


def test_folders_show_the_subject():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= AT_ROOT
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]
    crowded = {dotted(folder): len(modules) for folder in folders if len(modules := list(folder.glob("[!_]*.py"))) > 13}
    assert not crowded


def classes() -> Iterator[type]:
    for name in MODULES:
        for kind in vars(importlib.import_module(name)).values():
            if inspect.isclass(kind) and kind.__module__ == name and not issubclass(kind, pydantic.BaseModel):
                yield kind


def concrete(kind: type, name: str) -> bool:
    """Whether a class of this package gives a body to a method or property of that name."""
    own = vars(kind).get(name)
    if not kind.__module__.startswith("afdjax") or getattr(own, "__isabstractmethod__", False):
        return False
    # equinox wraps the methods of a module
    return inspect.isroutine(own) or isinstance(own, property | classmethod | staticmethod) or callable(own)


def test_no_concrete_method_is_overridden():
    """Abstract or final: who reads a method knows that it is the one which runs."""
    overridden = {
        f"{kind.__module__}.{kind.__qualname__}.{name} overrides that of {base.__qualname__}"
        for kind in classes()
        for name in vars(kind)
        for base in kind.__mro__[1:]
        if not name.startswith("__") and concrete(kind, name) and concrete(base, name)
    }
    assert not overridden


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bare_import_reaches_everything():
    in_a_new_process(
        "import afdjax; afdjax.calibrate.fit, afdjax.explore.search, afdjax.simulation.simulate, afdjax.load_accelerator"
    )


CORE = ["afdjax.workload.laws", "afdjax.cycles.cycle", "afdjax.simulation.run", "afdjax.planning.planner"]
READERS = ["polars", "pydantic", "matplotlib", "typer"]
REPORT = [name for name in MODULES if f"{name}.".startswith("afdjax.report.")]


@pytest.mark.parametrize(
    ("modules", "kept_out"), [(CORE, READERS), ([*REPORT, "afdjax.figures"], ["jax"])], ids=["core", "report"]
)
def test_imports_stay_out_of_the_rooms_that_do_without_them(modules, kept_out):
    code = f"import sys, {', '.join(modules)}; print(*[name for name in {kept_out} if name in sys.modules])"
    assert in_a_new_process(code).split() == []


SCRIPT = """
import jax
import afdjax as afd
from afdjax import calibrate, explore

workload = afd.load_workload("azure-2023-conversation")
profile = afd.load_profile("deepseek-v3-ascend-910c")
bundle = afd.Bundle(256)
plan = afd.plan(workload, profile, bundle)
print(plan, plan.ratio, plan.to_dict())
curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 19, 20], steps=500)
print(curve.throughput, curve.best)
print(afd.optimal_ratio(workload, profile, bundle, afd.Gaussian()))
found = calibrate.fit(calibrate.load_timings("timings.csv"), name="mine")
print(found.profile, found.fits["ffn"].worst)
print(explore.search)
"""


@pytest.mark.skipif(shutil.which("pyright", path=str(Path(sys.executable).parent)) is None, reason="needs pyright")
def test_a_users_script_is_typed(tmp_path):
    """In strict mode, which reports what is partially unknown."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pyrightconfig.json").write_text('{"include": ["script.py"], "typeCheckingMode": "strict"}')
    pyright = [sys.executable, "-m", "pyright", "--project", str(tmp_path), "--pythonpath", sys.executable]
    done = subprocess.run(pyright, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stdout
