"""Programs that are kept between processes: the same numbers, compiled once, never a stale one."""

import importlib.util
import shutil
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import serialize_executable

from afdjax._tools import programs
from afdjax._tools.programs import kept


TRACED = []


class Line(eqx.Module):
    slope: jax.Array
    name: str = eqx.field(static=True, default="line")


# as a class of the package, whose source is part of what finds a program
Line.__module__ = "afdjax.line"


class OwnLine(Line):
    """As a user writes it."""


def on_line(line: Line, points, times: int):
    TRACED.append(line.name)
    return {"y": line.slope * points * times, "sums": (points.sum(), [line.slope])}


def by_function(apply, points):
    TRACED.append("function")
    return apply(points)


@pytest.fixture
def folder(no_programs):
    TRACED.clear()
    return no_programs


def in_a_new_process(function, *arguments, kept=kept):
    """What a process says that has not traced the function yet."""
    return kept(function)(*arguments)


def arguments(slope=2.0, name="line", times=3, points=(1.0, 2.0)):
    return Line(jnp.asarray(slope), name), jnp.asarray(points), times


def test_a_kept_program_is_compiled_once_and_says_the_same(folder):
    plain = eqx.filter_jit(on_line)(*arguments())
    first, second = (in_a_new_process(on_line, *arguments()) for _ in range(2))
    other_numbers = in_a_new_process(on_line, *arguments(slope=5.0, points=(3.0, -1.0)))
    assert TRACED == ["line"] * 2  # one of them without a file
    assert jax.tree.structure(plain) == jax.tree.structure(first) == jax.tree.structure(second)
    for one, two, three in zip(*map(jax.tree.leaves, (plain, first, second)), strict=True):
        assert np.array_equal(one, two) and np.array_equal(one, three) and one.dtype == two.dtype == three.dtype
    assert np.array_equal(other_numbers["y"], [45.0, -15.0])
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"name": "other"},
        {"times": 4},
        {"points": (1.0, 2.0, 3.0)},
        {"points": np.array([1, 2], np.float32)},
        {"slope": [2.0]},
    ],
)
def test_whatever_tracing_sees_tells_programs_apart(folder, other):
    found = [in_a_new_process(on_line, *arguments(**each))["y"] for each in ({}, other)]
    again = [in_a_new_process(on_line, *arguments(**each))["y"] for each in ({}, other)]
    assert len(TRACED) == len(list(folder.iterdir())) == 2
    for one, two in zip(found, again, strict=True):
        assert np.array_equal(one, two) and one.dtype == two.dtype
    assert np.array_equal(found[1], on_line(*arguments(**other))["y"])


def shifted(points, *by):
    TRACED.append("shifted")
    return points + sum(3 * i for i, each in enumerate(by) if each == 5)


def test_the_place_of_a_number_tells_programs_apart(folder):
    points = jnp.asarray(1.0)
    for by, value in (((5, None), 1.0), ((None, 5), 4.0)):
        assert float(in_a_new_process(shifted, points, *by)) == value
    assert len(TRACED) == len(list(folder.iterdir())) == 2


def another_version(package):
    """This module in a package with another source."""
    path = package / "_tools" / "programs.py"
    path.parent.mkdir(parents=True)
    shutil.copy(programs.__file__, path)
    spec = importlib.util.spec_from_file_location("another_version", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_precision_source_and_settings_tell_programs_apart(folder, tmp_path):
    in_a_new_process(on_line, *arguments())
    with jax.enable_x64(False):
        assert in_a_new_process(on_line, *arguments())["y"].dtype == jnp.float32
    in_a_new_process(on_line, *arguments(), kept=another_version(tmp_path / "afdjax").kept)
    with jax.default_matmul_precision("highest"):
        in_a_new_process(on_line, *arguments())
    assert len(TRACED) == len(list(folder.iterdir())) == 4
    in_a_new_process(on_line, *arguments())
    assert len(TRACED) == 4


@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: whole[:-1], lambda whole: whole[:40] + b"x" + whole[41:]]
)
def test_a_damaged_program_is_compiled_again_and_mended(folder, damage):
    found = in_a_new_process(on_line, *arguments())["y"]
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert np.array_equal(in_a_new_process(on_line, *arguments())["y"], found)
    assert len(TRACED) == 2
    in_a_new_process(on_line, *arguments())
    assert len(TRACED) == 2 and len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written_costs_time_only(folder):
    folder.write_text("a file where the folder should be")
    assert np.array_equal(in_a_new_process(on_line, *arguments())["y"], [6.0, 12.0])
    assert folder.is_file()


def test_functions_are_not_kept_by_their_address(folder):
    for apply, value in ((jnp.sin, np.sin(1.0)), (lambda x: 2.0 * x, 2.0)):
        assert in_a_new_process(by_function, apply, jnp.asarray(1.0)) == pytest.approx(value)
    assert len(TRACED) == 2 and len(list(folder.iterdir()) if folder.exists() else []) <= 1


def test_nothing_is_kept_where_jax_keeps_nothing(folder):
    jax.config.update("jax_compilation_cache_dir", None)
    jax.clear_caches()
    in_a_new_process(on_line, *arguments())
    assert TRACED == ["line"] and not folder.exists()


def test_a_program_that_is_compiled_quickly_is_another(folder):
    for quickly in (False, True, True):
        found = kept(on_line, quickly)(*arguments())
        assert np.array_equal(found["y"], [6.0, 12.0])
    assert len(TRACED) == len(list(folder.iterdir())) == 2


def test_transformations_and_other_devices_are_not_kept(folder):
    line, points, times = arguments()
    program = kept(on_line)
    slope, by_points = jax.grad(lambda slope, points: program(Line(slope), points, times)["y"].sum(), (0, 1))(
        2.0, points
    )
    assert float(slope) == 9.0 and np.array_equal(by_points, [6.0, 6.0])
    mapped = jax.vmap(lambda point: program(line, point, times)["y"])(points)
    assert np.array_equal(mapped, [6.0, 12.0])
    elsewhere = jax.devices()[-1]
    found = program(*jax.device_put((line, points), elsewhere), times)["y"]
    assert found.devices() == {elsewhere} and np.array_equal(found, [6.0, 12.0])
    assert not folder.exists()


def test_a_program_that_xla_refuses_is_compiled_again(folder, monkeypatch):
    in_a_new_process(on_line, *arguments())

    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("machine type does not match")

    monkeypatch.setattr(serialize_executable, "deserialize_and_load", refuse)
    assert np.array_equal(in_a_new_process(on_line, *arguments())["y"], [6.0, 12.0])
    assert len(TRACED) == 2


@pytest.mark.parametrize("kept_before", [False, True])
def test_a_program_can_be_made_ready_in_a_thread(folder, kept_before):
    """Traced at once where there is no file, compiled or read in the thread, not again when it is called."""
    if kept_before:
        in_a_new_process(on_line, *arguments())
    program = kept(on_line)
    with ThreadPoolExecutor(1) as thread:
        busy = threading.Event()
        thread.submit(busy.wait)
        program.ahead(thread, *arguments())
        assert TRACED == ["line"] and len(list(folder.glob("*"))) == kept_before
        busy.set()
        assert np.array_equal(program(*arguments(slope=5.0))["y"], [15.0, 30.0])
        (path,) = folder.iterdir()
        path.unlink()
        program.ahead(thread, *arguments())
    assert TRACED == ["line"] and not path.exists()


def test_where_nothing_is_kept_nothing_is_made_ready(folder):
    jax.config.update("jax_compilation_cache_dir", None)
    with ThreadPoolExecutor(1) as thread:
        kept(on_line).ahead(thread, *arguments())
    assert not TRACED


class Failing(Executor):
    """Whatever it is given fails."""

    def submit(self, fn, /, *args, **kwargs):
        failed = Future()
        failed.set_exception(OSError("no room"))
        return failed


def test_a_call_says_what_went_wrong_and_the_next_one_tries_again(folder):
    program = kept(on_line)
    program.ahead(Failing(), *arguments())
    with pytest.raises(OSError, match="no room"):
        program(*arguments())
    assert np.array_equal(program(*arguments())["y"], [6.0, 12.0])


@pytest.fixture
def single():
    """Single precision, but for who asks for more."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("refused", [False, True])
def test_threads_have_the_precision_of_who_asked(folder, monkeypatch, refused):
    """Double precision by the context manager, which is one of a thread."""
    refuse = lambda *_, **__: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("machine type does not match"))
    with jax.enable_x64(True):
        if refused:
            in_a_new_process(on_line, *arguments())
            monkeypatch.setattr(serialize_executable, "deserialize_and_load", refuse)
        program = kept(on_line)
        with ThreadPoolExecutor(1) as thread:
            program.ahead(thread, *arguments())
        assert program(*arguments())["y"].dtype == jnp.float64
    assert program(*arguments())["y"].dtype == jnp.float32


def test_without_jit_nothing_is_kept(folder):
    with jax.disable_jit():
        assert np.array_equal(kept(on_line)(*arguments())["y"], [6.0, 12.0])
    assert not folder.exists()


@pytest.mark.parametrize("error", [ValueError, NotImplementedError, jax.errors.JaxRuntimeError])
def test_a_program_that_cannot_be_written_costs_time_only(folder, monkeypatch, error):
    refuse = lambda *_: (_ for _ in ()).throw(error("no serialisation here"))
    monkeypatch.setattr(serialize_executable, "serialize", refuse)
    assert np.array_equal(in_a_new_process(on_line, *arguments())["y"], [6.0, 12.0])
    assert not list(folder.glob("*"))


def test_a_program_of_a_user_s_class_is_not_kept_for_another_process(folder):
    own = OwnLine(jnp.asarray(2.0)), jnp.asarray([1.0, 2.0]), 3
    found = [in_a_new_process(on_line, *own)["y"] for _ in range(2)]
    # its source may have changed in between
    assert len(TRACED) == 2 and not folder.exists()
    assert np.array_equal(found[0], [6.0, 12.0]) and np.array_equal(*found)
