"""Wrong calls of the Python interface: what is called, the argument at fault, and a part of what the message says to do.

`python -m tests.wrong_calls` makes all of them as users do, without the tests' checks of shapes and kinds, in both precisions,
and prints for each what was raised and, where the message says what to write, whether that works.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Wrong(NamedTuple):
    """`typed`: whether a checker of types sees it, too; `instead`: the call of somebody who does what the message says, where it
    does not spell that out."""

    code: str
    argument: str
    right: str
    typed: bool = True
    instead: str = ""


BY_VALUE: dict[str, Any] = {"typed": False}

WRONG = [
    # a text, a list or nothing for a number
    Wrong('afd.Bundle("64")', "batch_size", "write 64"),
    Wrong('afd.Bundle(64, layers="61 layers")', "layers", "a number from 0.001 to 1,000,000"),
    Wrong("afd.Bundle(None)", "batch_size", "a number from 0.001"),
    Wrong("afd.Bundle([64])", "batch_size", "write 64"),
    Wrong("afd.Bundle({'batch_size': 64})", "batch_size", "a number from 0.001"),
    Wrong('afd.Bundle(64, in_flight="2")', "in_flight", "write 2"),
    Wrong("afd.Bundle(64, in_flight=2.5)", "in_flight", "a whole number from 1 to 8"),
    Wrong('afd.Affine("0.3", 10.0)', "per_token", "write 0.3"),
    Wrong("afd.Affine(0.3, None)", "base", "a number from 0"),
    Wrong('afd.Geometric("500")', "mean", "write 500"),
    Wrong('afd.Lognormal(20.0, "wide")', "sigma", "a number"),
    Wrong('afd.Uniform(2, "30")', "maximum", "write 30"),
    Wrong('afd.Deterministic("12")', "value", "write 12"),
    Wrong('afd.Moments("500", 100.0)', "theta", "write 500"),
    Wrong('afd.horizon_load("100", 500, 256, 10_000)', "prompt_mean", "write 100"),
    Wrong('afd.plan(w, p, b, max_ratio="64")', "max_ratio", "write 64"),
    Wrong('afd.optimal_ratio(w, p, b, max_ratio="64")', "max_ratio", "write 64"),
    Wrong('afd.cycle_time(w, p, b, "18")', "attention_workers", "write 18"),
    Wrong('afd.simulate(key, w, p, b, [3], steps="1000")', "steps", "write 1000"),
    Wrong("afd.simulate(key, w, p, b, [3], replicas=2.5)", "replicas", "a whole number from 1"),
    Wrong('afd.Requests(["many"], [5])', "prompt", "must hold numbers"),
    Wrong('afd.Exact(points="2048")', "points", "write 2048"),
    # a number for a part
    Wrong("afd.Profile(1.0, p.ffn, p.communication)", "attention", "write `afd.Affine(0.0, 1)`"),
    Wrong("afd.Profile(p.attention, 5.0, p.communication)", "ffn", "write `afd.Affine(0.0, 5)`"),
    Wrong("afd.Profile(p.attention, p.ffn, 20)", "communication", "write `afd.Affine(0.0, 20)`"),
    Wrong("afd.PerWorker(20.0)", "latency", "write `afd.Affine(0.0, 20)`"),
    Wrong("afd.Independent(100.0, 500.0)", "prompt", "write `afd.Geometric(100)`"),
    Wrong("afd.plan(w, p, 2560)", "bundle", "write `afd.Bundle(2560)`"),
    Wrong("afd.cycle_time(w, p, 256, 18)", "bundle", "write `afd.Bundle(256)`"),
    # a name or a path for what is there under it
    Wrong('afd.plan("azure-2023-code", p)', "workload", "write `afd.load_workload('azure-2023-code')`"),
    Wrong('afd.plan(w, "deepseek-v3-ascend-910c")', "profile", "write `afd.load_profile('deepseek-v3-ascend-910c')`"),
    Wrong('afd.plan(w, Path("profile.json"))', "profile", "write `afd.load_profile('profile.json')`"),
    Wrong('afd.replay("log.csv", p, b)', "log", "write `afd.load_trace('log.csv')`"),
    Wrong('afd.stack(["azure-2023-code"])', "workloads[0]", "write `afd.load_workload('azure-2023-code')`"),
    Wrong('afd.Mixture(["azure-2023-code", w], [1, 1])', "parts[0]", "write `afd.load_workload('azure-2023-code')`"),
    Wrong('afd.plan(w, p, b, "gaussian")', "barrier", "write `afd.Gaussian()`"),
    Wrong('afd.Bundle(64, start="together")', "start", "write `afd.Together()`"),
    Wrong('afd.RunOptions(initial="cold")', "initial", "write `afd.Cold()`"),
    Wrong('calibrate.fit("timings.csv")', "timings", "write `calibrate.load_timings('timings.csv')`"),
    Wrong('calibrate.fit_steps("steps.csv")', "log", "write `calibrate.load_steps('steps.csv')`"),
    Wrong('explore.Setting("deepseek-v3", h100, h100, requests)', "model", "write `explore.load_model('deepseek-v3')`"),
    Wrong('explore.Setting(model, "h100", h100, requests)', "attention_device", "write `afd.load_accelerator('h100')`"),
    # a class for one of its objects
    Wrong("afd.plan(w, p, b, afd.Gaussian)", "barrier", "write `afd.Gaussian()`"),
    Wrong("afd.Bundle(64, start=afd.Together)", "start", "write `afd.Together()`"),
    Wrong("afd.RunOptions(initial=afd.Cold)", "initial", "write `afd.Cold()`"),
    Wrong("afd.Independent(afd.Geometric, afd.Geometric(5.0))", "prompt", "such as `afd.Geometric(500.0)`"),
    # arguments in another order
    Wrong("afd.plan(p, w, b)", "workload", "the order is plan(workload, profile, bundle, barrier)"),
    Wrong("afd.optimal_ratio(w, b, p)", "profile", "the order is optimal_ratio(workload, profile, bundle, barrier)"),
    Wrong("afd.simulate(w, p, b, key)", "key", "`jax.random.key(0)`"),
    Wrong("afd.compare(w, p, p)", "first", "the order is compare(first, second, workload, bundle, barrier)"),
    Wrong("afd.closed_form(p, 500.0, b)", "slot_load", "a number"),
    Wrong("afd.throughput(w, p, 18.0, b)", "bundle", "write `afd.Bundle(18)`"),
    Wrong("afd.profile_to_json(b, p)", "profile", "the order is profile_to_json(profile, bundle)"),
    # keys
    Wrong("afd.simulate(7, w, p, b)", "key", "write `jax.random.key(7)`"),
    Wrong("w.sample(0)", "key", "write `jax.random.key(0)`"),
    Wrong(
        "afd.simulate(jax.random.split(key, 3), w, p, b)", "key", "`key[0]`", **BY_VALUE,
        instead="afd.simulate(jax.random.split(key, 3)[0], w, p, b, [3], steps=64)",
    ),
    Wrong("afd.load_paths(None, w, 8, 4)", "key", "write `jax.random.key(0)`"),
    # many where one belongs
    Wrong("afd.Bundle(np.array([64.0, 128.0]))", "batch_size", "`jax.vmap`", **BY_VALUE),
    Wrong("afd.Affine(jnp.arange(1.0, 4.0), 1.0)", "per_token", "`jax.vmap`", **BY_VALUE),
    Wrong("afd.Geometric(np.array([5.0, 6.0]))", "mean", "`jax.vmap`", **BY_VALUE),
    Wrong(
        "afd.cycle_time(w, p, b, np.arange(1.0, 4.0))", "attention_workers", "`jax.vmap`", **BY_VALUE,
        instead="jax.vmap(lambda x: afd.cycle_time(w, p, b, x, afd.Gaussian()))(jnp.arange(1.0, 4.0))",
    ),
    Wrong("afd.optimal_ratio(w, p, b, max_ratio=np.array([32.0, 64.0]))", "max_ratio", "`jax.vmap`", **BY_VALUE),
    Wrong(
        "afd.optimal_ratio(afd.stack([log, log]), p, b)", "workload", "`jax.vmap`", **BY_VALUE,
        instead="jax.vmap(lambda one: afd.optimal_ratio(one, p, b, afd.Gaussian()))(afd.stack([log, log]))",
    ),
    Wrong(
        "afd.plan(w, stacked(p), b)", "profile", "`jax.vmap`", **BY_VALUE,
        instead="jax.vmap(lambda one: afd.optimal_ratio(w, one, b, afd.Gaussian()))(stacked(p))",
    ),
    Wrong("afd.simulate(key, w, p, b, 19)", "attention_workers", "write [19]", **BY_VALUE),
    # what needs a law that is not known, and what does not know a law
    Wrong(
        "afd.plan(afd.Moments(500.0, 100.0), p, b)", "workload", "give a `Workload`", **BY_VALUE,
        instead="afd.plan(log, p, b)",
    ),
    Wrong(
        "afd.plan(afd.Moments(500.0, 100.0), p, b, afd.Exact())", "workload", "use `Gaussian()`", **BY_VALUE,
        instead="afd.plan(afd.Moments(500.0, 100.0), p, b, afd.Gaussian())",
    ),
    Wrong(
        "afd.optimal_ratio(afd.Moments(500.0, 100.0), capped, b, afd.Gaussian())", "workload", "give a `Workload`", **BY_VALUE,
        instead="afd.optimal_ratio(log, capped, b, afd.Gaussian())",
    ),
    Wrong(
        "afd.closed_form(500.0, curved, b)", "profile", "use `optimal_ratio`", **BY_VALUE,
        instead="afd.optimal_ratio(log, curved, b, afd.Gaussian())",
    ),
    Wrong(
        "afd.plan(afd.Independent(afd.Geometric(9.0), afd.Geometric(5.0)), capped, b, horizon_requests=99)",
        "horizon_requests", "leave it out", **BY_VALUE,
        instead="afd.plan(afd.Independent(afd.Geometric(9.0), afd.Geometric(5.0)), capped, b, afd.MeanField())",
    ),
    Wrong(
        "afd.Exact(points=1000)", "points", "give 512 or 1024", **BY_VALUE,
        instead="afd.Exact(points=1024)",
    ),
    Wrong(
        "afd.Gaussian().worker_load(stacked(afd.Moments(500.0, 100.0)), 8.0)", "workload", "`jax.vmap`", **BY_VALUE,
        instead="jax.vmap(lambda one: afd.Gaussian().worker_load(one, 8.0))(stacked(afd.Moments(500.0, 100.0)))",
    ),
    # what jax cannot transform
    Wrong("jax.jit(afd.plan)(w, p, b)", "workload", "`afd.optimal_ratio`", **BY_VALUE),
    Wrong("jax.vmap(lambda x: afd.plan(w, p, afd.Bundle(x)).ratio)(jnp.ones(2))", "bundle", "`afd.optimal_ratio`", **BY_VALUE),
    Wrong("jax.grad(lambda r: afd.plan(w, p, b, max_ratio=r).ratio)(9.0)", "max_ratio", "`afd.optimal_ratio`", **BY_VALUE),
    Wrong("jax.jit(lambda m: afd.Bundle(8, in_flight=m))(2)", "in_flight", "known outside of jax", **BY_VALUE),
    Wrong("jax.jit(lambda m: afd.Geometric(m))(5.0)", "maximum", "must be given", **BY_VALUE),
    Wrong(
        "jax.jit(lambda x: afd.simulate(key, w, p, afd.Bundle(x), [3]))(8.0)", "batch_size", "a known number", **BY_VALUE,
        instead="afd.simulate(key, w, p, afd.Bundle(8.0), [3], steps=64)",
    ),
    Wrong(
        "jax.jit(lambda x: afd.Requests(x, x))(jnp.ones(3))", "prompt", "outside of `jit`", **BY_VALUE,
        instead="jax.jit(afd.optimal_ratio)(afd.Requests(jnp.ones(3), jnp.ones(3)), p, b, afd.Gaussian())",
    ),
    # numbers that cannot be
    Wrong("afd.Rescaled(w, float('nan'), 5.0)", "theta", "a number from 0", **BY_VALUE),
    Wrong("afd.Bundle(-1)", "batch_size", "a number from 0.001 to 1,000,000", **BY_VALUE),
    Wrong("p.with_coefficients({'attention.base': -1.0})", "attention.base", "a number from 0", **BY_VALUE),
    Wrong("p.attention.with_coefficients({'base': float('inf')})", "base", "a number from 0", **BY_VALUE),
    # names that are not known, and keys that are missing
    Wrong("p.with_coefficients({'attention.bse': 1.0})", "values", "did you mean attention.base?", **BY_VALUE),
    Wrong("p.with_coefficients([1.0, 2.0])", "values", "a dictionary with names as keys"),
    Wrong("calibrate.fit(timings, forms={'fnn': 'affine'})", "forms", "did you mean ffn?", **BY_VALUE),
    Wrong("calibrate.fit(timings, select={'attn': 'heads'})", "select", "attention, ffn, communication", **BY_VALUE),
    Wrong("afd.load_workload('azure-2023-cod')", "azure-2023-cod", "did you mean azure-2023-code?", **BY_VALUE),
    Wrong("afd.load_profile(3)", "name_or_path", "a path or a text"),
    # shapes
    Wrong("afd.Profile(p.attention, p.ffn, p.communication, jnp.eye(3))", "covariance", "shape (6, 6)", **BY_VALUE),
    Wrong("afd.Profile(p.attention, p.ffn, p.communication, -jnp.eye(6))", "covariance", "negative eigenvalues", **BY_VALUE),
    Wrong("afd.Profile(p.attention, p.ffn, p.communication, [[1.0]])", "covariance", "an array of numbers"),
    Wrong("afd.Requests([5, 6], [7, 8], covariance=np.eye(3))", "covariance", "shape (2, 2)", **BY_VALUE),
    Wrong("afd.Requests([5, 6], [7])", "decode", "shape (2,)", **BY_VALUE),
    Wrong("afd.Mixture([w, w], [1.0])", "weights", "one entry for each of the 2 parts", **BY_VALUE),
    Wrong("afd.Table(np.array([1.0, 2.0]), np.array([4.0]), np.ones((2, 2)))", "times", "shape (1, 2)", **BY_VALUE),
    Wrong("afd.stack([w, p])", "workloads[1]", "a `SlotLoad`"),
    Wrong("afd.stack(w)", "workloads", "a list of workloads"),
    Wrong("afd.summarize(afd.Moments(500.0, 100.0), name='m')", "requests", "a `Requests`"),
    Wrong("afd.simulate(key, afd.Moments(500.0, 100.0), p, b)", "workload", "a `Workload`"),
    Wrong("afd.plan(w, p, b, workload_name=7)", "workload_name", "a text in quotes"),
    # what options hold
    Wrong('afd.Requests([5], [7], source="mine")', "source", "write `afd.Source(name='mine')`"),
    Wrong('afd.Sampling(steps="5000")', "steps", "write 5000"),
    Wrong('afd.RunOptions(warm_up="100")', "warm_up", "write 100"),
    Wrong("afd.check_model(w, p, b, [3], sampling=500)", "sampling", "such as `afd.Sampling(steps=5000)`"),
    Wrong("afd.LogOptions(skip_bad_rows='yes')", "skip_bad_rows", "True or False"),
    Wrong("afd.load_trace('log.csv', {'skip_bad_rows': True})", "options", "such as `afd.LogOptions("),
    Wrong(
        "afd.Validity(4096.0)", "tokens", "two numbers, the least and the most", instead="afd.Validity((1.0, 4096.0))",
    ),
    Wrong("calibrate.Region(batch=64)", "batch", "two numbers, the least and the most"),
    Wrong("explore.Targets(tpot='50ms')", "tpot", "a number"),
    Wrong("explore.search(setting, '64 GPUs')", "devices", "must hold numbers"),
    Wrong(
        "explore.search(setting, 64, rules='whole-experts')", "rules", "a list of names", **BY_VALUE,
        instead="explore.search(setting, 8, rules=['whole-experts'])",
    ),
    Wrong("explore.from_config('deepseek-v3')", "config", "a dictionary"),
    Wrong("afd.register_form(p.attention)", "kind", "decorate the class itself"),
    Wrong("p.stage('attn')", "name", "attention, ffn, communication", **BY_VALUE),
    Wrong("w.sample(key, 3)", "shape", "a tuple, such as (3,)"),
]  # fmt: skip


def things() -> dict[str, Any]:
    """What the calls are made with, by name, in the precision of the caller."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import afdjax as afd
    from afdjax import calibrate, explore

    h100 = afd.load_accelerator("h100")
    stacked: Callable[[Any], Any] = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)
    here = {
        "w": afd.Requests([5.0, 9.0, 30.0], [3.0, 8.0, 4.0]),
        "log": afd.Requests([5.0, 9.0, 30.0], [3.0, 8.0, 4.0]),
        "p": afd.Profile(afd.Affine(0.5, 20.0), afd.Affine(0.25, 10.0), afd.Affine(0.125, 4.0)),
        "b": afd.Bundle(8),
        "key": jax.random.key(0),
        "h100": h100,
        "model": explore.load_model("deepseek-v3"),
        "requests": explore.UseCase(0.0, 3000.0, 1000.0),
        "setting": explore.Setting(explore.load_model("deepseek-v3"), h100, h100, explore.UseCase(0.0, 3000.0, 1000.0)),
        "timings": calibrate.load_timings("timings.csv"),
        "stacked": stacked,
        "capped": afd.Profile(afd.CappedRoofline(20.0, 0.5, 64.0, 0.1), afd.Affine(0.25, 10.0), afd.Affine(0.125, 4.0)),
        "curved": afd.Profile(afd.Affine(0.5, 20.0), afd.FloorLinear(10.0, 0.25, 99.0), afd.Affine(0.125, 4.0)),
    }
    modules = {"afd": afd, "calibrate": calibrate, "explore": explore, "jax": jax, "jnp": jnp, "np": np, "Path": Path}
    return here | modules


FILES = {
    "log.csv": "prompt_tokens,output_tokens\n5,3\n9,8\n",
    "timings.csv": "component,latency,unit,tokens\nffn,10,us,16\nffn,20,us,64\nffn,30,us,128\n",
    "steps.csv": "batch,token_load,attention_workers,step_time,unit\n64,32000,4,900,us\n64,33000,4,910,us\n",
}
"""What calls and advice read, in the folder where they are made."""


def raised(code: str, instead: str, known: dict[str, Any]) -> dict[str, Any]:
    """What a call raises, what was written instead by who follows its message, and what goes wrong there."""
    try:
        eval(code, known)
    except Exception as error:
        text = str(error)
        followed = [*re.findall(r"(?:write|such as) `([^`]+)`", text), *filter(None, [instead])]
        return {"kind": type(error).__name__, "message": text, "followed": followed, "advice": _follow(followed, known)}
    return {"kind": "none", "message": "", "followed": [], "advice": None}


def _follow(followed: list[str], known: dict[str, Any]) -> str | None:
    for written in followed:
        try:
            eval(written, known)
        except Exception as error:
            return f"{written}: {error!r}"
    return None


def main() -> None:
    import jax

    for name, content in FILES.items():
        Path(name).write_text(content)
    found = []
    for double in (False, True):
        with jax.enable_x64(double):
            known = things()
            Path("profile.json").write_text(known["afd"].profile_to_json(known["p"]))
            found.append([raised(wrong.code, wrong.instead, known) for wrong in WRONG])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
