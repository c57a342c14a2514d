"""The search of the design space: right about what it finds, its derivatives, files and command."""

import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from concurrent.futures import Executor, Future

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.explore import (
    Corrections,
    Fleet,
    Network,
    Replica,
    Setting,
    Targets,
    UseCase,
    as_bundle,
    elasticities,
    load_model,
    model_elasticities,
    search,
)
from afdjax.explore.costs.network import ROUTES
from afdjax.explore.costs.routing import Even, drawn, zipf
from afdjax.explore.costs.schedule import SCHEDULES
from afdjax.explore.costs.setting import use_case_of
from afdjax.explore.explain.facts import facts_ahead
from afdjax.explore.explain.record import asked
from afdjax.explore.explain.sensitivity import name_of, rate
from afdjax.explore.models.ffn import Experts
from afdjax.explore.plans import shapes
from afdjax.explore.plans.candidates import Candidates, Outcomes, evaluation_ahead
from afdjax.explore.plans.plan import LEVELS, REASONS, why_no_plan
from afdjax.explore.replicas.outcomes import chunked, memory, spare, step, times
from afdjax.hardware.files import load_accelerator
from afdjax.report.exploration import exploration_report
from tests.plain_plans import spare_of, step_of


# Search


def setting_of(model="deepseek-v3.2", accelerator="b200", requests=None, **changes) -> Setting:
    part = load_accelerator(accelerator)
    return Setting(load_model(model), part, part, requests or UseCase(4096, 512, 256), cache="fp8", **changes)


@pytest.fixture(scope="module")
def found():
    return search(setting_of(), 32, Targets(ttft=0.2, tpot=0.03))


def test_every_level_is_searched_and_its_plan_keeps_the_targets(found):
    assert tuple(level.name for level in found.levels) == LEVELS
    for level in found.levels:
        plan = level.plan
        assert level.verdict == "feasible" and set(level.reasons) <= set(REASONS)
        assert plan.tpot <= 0.03 and plan.ttft <= 0.2 and plan.devices <= 32
        assert any(float(part.replica.ffn_devices) > 0 for part in plan.parts) == level.name.endswith("afd")
        for part in plan.parts:
            new = jnp.ceil(part.replica.chunk / found.question.setting.requests.prompt)
            used = memory(
                found.question.setting, part.replica, (part.replica.batch_size + new) * part.replica.in_flight
            )
            room = float(found.question.setting.attention_device.memory - found.question.setting.reserve)
            assert float(used.weights + used.cache) <= room * (1 + 1e-2) and float(used.ffn_weights) <= room
        np.testing.assert_allclose(rate(found.question, plan), plan.tokens_per_s, rtol=1e-9)
        # the plan lies on the frontier, or just below it
        speed, total = level.frontier.T
        assert len(speed) > 3
        assert total[speed >= (1 - 1e-9) / plan.tpot].max() >= plan.tokens_per_s * (1 - 1e-9)
        assert (np.diff(speed) > 0).all() and (np.diff(total) < 0).all()


def test_no_candidate_of_a_plain_scan_is_better(found):
    """Whole replicas that hold everything, one after the other, in plain Python around the formula."""
    best = 0.0
    of_one = eqx.filter_jit(
        lambda replica: chunked(found.question.setting, replica, times(found.question.setting, replica))
    )
    left = eqx.filter_jit(lambda replica: spare(found.question.setting, replica)[0])
    for devices, tp, batch, chunk in itertools.product((8, 16, 32), (1, 4, 8), (8, 32, 64, 96, 128), (512, 1024)):
        replica = Replica(devices, 0, tp, batch, 1, chunk)
        outcome = of_one(replica)
        keeps = outcome.tpot <= 0.03 and outcome.ttft <= 0.2 and outcome.feeding >= 1.0 and left(replica) >= 0.0
        best = max(best, 32 // devices * float(outcome.tokens_per_s) if keeps else 0.0)
    assert 0.0 < best <= found.levels[0].plan.tokens_per_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("accelerator", "with_attention", "imbalance"),
    [
        ("h200", ("router", "dense"), 1.0), ("gb200", ("router", "dense"), 1.4),
        ("h200", (), 1.3), ("gb200", ("dense", "shared"), 1.0),
    ],
)  # fmt: skip
def test_replicas_in_plain_python(accelerator, with_attention, imbalance):
    """The same formulas in floats, for a few hundred random replicas of both kinds and all sizes."""
    rng = np.random.default_rng(1)
    setting = setting_of(
        "deepseek-v3",
        accelerator,
        UseCase(1000, 2048, 512),
        with_attention=with_attention,
        imbalance=Even(imbalance),
    )
    part, lengths, reached = setting.attention_device, (1000.0, 2048.0, 512.0), setting.efficiency
    device = {
        "bandwidth": float(part.bandwidth), "fp8": float(part.peak["fp8"]), "bf16": float(part.peak["bf16"]),
        "memory": float(part.memory), "up": float(part.scale_up.bandwidth), "up_latency": float(part.scale_up.latency),
        "out": float(part.scale_out.bandwidth), "out_latency": float(part.scale_out.latency),
        "size": float(part.scale_up.devices),
    }  # fmt: skip
    reached = {name: float(getattr(reached, name)) for name in reached.__dataclass_fields__}
    tp = 2.0 ** rng.integers(0, 5, 300)
    near, far = tp * rng.integers(1, 40, 300), np.where(rng.random(300) < 0.5, 0.0, rng.integers(1, 120, 300))
    batch, m = rng.integers(1, 600, 300).astype(float), rng.integers(1, 5, 300).astype(float)
    chunk = rng.integers(1, 4096, 300).astype(float)
    columns = (near, far, tp, batch, m, chunk)
    both = lambda replica: (times(setting, replica), spare(setting, replica)[0])
    found, left = eqx.filter_jit(jax.vmap(both))(Replica(*map(jnp.asarray, columns)))
    for i, (a, f, group, b, flight, c) in enumerate(zip(*columns, strict=True)):
        shape = (device, reached, lengths, a, f, group, flight, b)
        np.testing.assert_allclose(found.plain[i], step_of(*shape, 0.0, with_attention, imbalance), rtol=1e-9)
        np.testing.assert_allclose(found.mixed[i], step_of(*shape, c, with_attention, imbalance), rtol=1e-9)
        resident = (b + max(c / lengths[1], 1.0)) * flight
        expected = spare_of(device, float(setting.reserve), lengths, a, f, group, resident, with_attention)
        np.testing.assert_allclose(left[i], expected, rtol=1e-9, atol=1.0)


def test_a_dense_model_sends_its_ffns_away():
    """Llama on 8 H100: apart, attention devices hold no FFN; together, everything is divided by tensor parallelism."""
    setting = setting_of("llama-3.1-70b", "h100", UseCase(0, 2048, 256))
    ffn = 80 * 3 * 8192 * 28672 * 2.0
    near = 80 * (8192 * (64 + 16) * 128 + 64 * 128 * 8192) * 2.0 + 2 * 8192 * 128256 * 2.0
    apart, whole = Replica(4, 4, 4, 8, 2), Replica(8, 0, 8, 8, 1)
    used = memory(setting, apart, jnp.asarray(16.0))
    np.testing.assert_allclose([used.weights, used.ffn_weights], [near / 4, ffn / 4], rtol=1e-9)
    np.testing.assert_allclose(memory(setting, whole, jnp.asarray(8.0)).weights, (near + ffn) / 8, rtol=1e-9)
    now, together = (step(setting, replica, replica.batch_size, 0.0) for replica in (apart, whole))
    assert float(now.out) > 0.0 and float(now.ffn) > 0.0 and float(together.out) == 0.0
    # a device that reads its share of the weights takes at least so long
    assert float(now.ffn) * 80 >= ffn / 4 / 3.35e12
    assert float(together.time) >= (near + ffn) / 8 / 3.35e12


def test_of_equal_throughputs_the_sooner_first_token_wins(found):
    # rounding would choose among chunks of many sizes, which use a replica just as well
    same = np.ones(4)
    outcomes = Outcomes(
        tokens_per_s=np.array([100.0, 100.0 * (1 - 1e-9), 100.0 * (1 - 1e-9), 99.9]),
        tpot=np.array([0.1, 0.1, 0.09, 0.05]),
        ttft=np.array([3.0, 2.0, 2.0, 1.0]),
        feeding=2.0 * same,
        spare=same,
        spare_weights=same,
    )
    several = Candidates("chunked", (0,), np.ones(1), shapes.Shapes(same, same, same, same, same), same, outcomes)
    assert several.best_by_size(Targets()) == [2]
    assert several.best_by_size(Targets(ttft=1.5)) == [3]
    (whole,) = found.levels[0].plan.parts
    for chunk in shapes.CHUNKS:
        other = dataclasses.replace(
            whole.replica, chunk=jnp.maximum(jnp.round(chunk * found.question.setting.requests.prompt), 1.0)
        )
        outcome = chunked(found.question.setting, other, times(found.question.setting, other))
        equal = float(outcome.tokens_per_s) >= (1 - 1e-7) * float(whole.outcome.tokens_per_s)
        if equal and outcome.feeding >= 1.0 and outcome.tpot <= found.question.targets.tpot:
            assert float(outcome.ttft) >= float(whole.outcome.ttft) * (1 - 1e-9)


def test_two_targets_that_nothing_keeps_are_both_to_relax():
    strict = search(setting_of(), 16, Targets(ttft=1e-6, tpot=1e-6)).levels[:1]
    assert "Relax `ttft` and `tpot`: no candidate that fits keeps either." in why_no_plan(strict)
    assert search(setting_of(), 16, Targets()).levels[0].plan is not None


def test_tighter_targets_never_help():
    totals = []
    for tpot in (0.1, 0.04, 0.02, 0.001):
        level = search(setting_of(), 16, Targets(ttft=0.5, tpot=tpot)).levels[0]
        totals.append(level.plan.tokens_per_s if level.plan else 0.0)
    assert totals == sorted(totals, reverse=True) and totals[0] > 0.0 == totals[-1]


def test_why_there_is_no_plan():
    tight = search(setting_of(), 16, Targets(tpot=1e-3))
    assert tight.best is None
    assert {level.verdict for level in tight.levels} == {"tpot-missed"}
    assert all(level.floor.tpot > 1e-3 for level in tight.levels)
    first = search(setting_of(), 16, Targets(ttft=1e-3))
    assert {level.verdict for level in first.levels} == {"ttft-missed"}
    small = search(setting_of(), 2)
    assert {level.verdict for level in small.levels} == {"weights-do-not-fit"}
    alone = search(setting_of("qwen3-30b"), 1)
    assert [level.verdict for level in alone.levels] == ["feasible", "budget", "budget", "budget"]
    # prefill could do it, decode not
    both = search(setting_of(), 16, Targets(ttft=0.5, tpot=1e-3))
    assert both.levels[2].verdict == "tpot-missed" and both.levels[2].floor.tpot > 1e-3
    long = search(setting_of("qwen3-30b", requests=UseCase(1.0e8, 512, 256)), 8)
    assert {level.verdict for level in long.levels} == {"cache-does-not-fit"}
    for devices, targets, message in (
        (0, Targets(), "`devices` must be"),
        (4, Targets(tpot=0.0), "`tpot` must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            search(setting_of(), devices, targets)


# Derivatives


def test_elasticities_against_central_differences(found):
    """By every constant of model, accelerators, efficiencies, network and requests, all a little off so that none are equal."""
    level, rng = found.levels[1], np.random.default_rng(3)
    off = lambda leaf: leaf * math.exp(0.02 * rng.standard_normal()) if eqx.is_inexact_array(leaf) else leaf
    setting = eqx.tree_at(lambda s: s.accepted, jax.tree.map(off, found.question.setting), jnp.asarray(1.0))
    there = dataclasses.replace(found.question, setting=setting)
    slopes = elasticities(there, level.plan) | model_elasticities(there, level.plan)
    assert len(slopes) > 60 and all(math.isfinite(slope) for slope in slopes.values())
    paths, tree = jax.tree_util.tree_flatten_with_path(eqx.filter(setting, eqx.is_inexact_array))
    rest = eqx.filter(setting, eqx.is_inexact_array, inverse=True)
    moved = lambda leaves: eqx.combine(jax.tree.unflatten(tree, leaves), rest)
    log_rate = jax.jit(
        lambda leaves: jnp.log(rate(dataclasses.replace(found.question, setting=moved(leaves)), level.plan))
    )
    names, values = [knob(path) for path, _ in paths], [value for _, value in paths]
    for name in dict.fromkeys(names):
        if name in slopes:
            up, down = (
                log_rate(
                    [value * math.exp(h) if at == name else value for at, value in zip(names, values, strict=True)]
                )
                for h in (1e-6, -1e-6)
            )
            np.testing.assert_allclose(slopes[name], float(up - down) / 2e-6, rtol=1e-4, atol=2e-6, err_msg=name)


def knob(path) -> str:
    """What a leaf of a setting is called where both kinds of devices are one."""
    return re.sub("^(attention|ffn)_device", "device", name_of(path))


def test_margins_are_where_first_order_changes_meet(found):
    """A hundredth of the way to the factor that is named, a hundredth of the gap is gone."""
    best, flips = found.best, found.margins
    assert flips and best.name not in flips
    names = [knob(path) for path, _ in jax.tree_util.tree_flatten_with_path(found.question.setting)[0]]
    leaves, tree = jax.tree.flatten(found.question.setting)
    plans = {level.name: level.plan for level in found.levels}
    question = lambda moved: dataclasses.replace(found.question, setting=jax.tree.unflatten(tree, moved))
    rates = eqx.filter_jit(lambda moved: {name: rate(question(moved), plan) for name, plan in plans.items()})
    gap = lambda rates, name: math.log(float(rates[best.name] / rates[name]))
    before = rates(leaves)
    for level in found.levels:
        for name, factor in flips.get(level.name, ()):
            assert 0.1 < factor < 10.0
            after = rates([leaf * factor**0.01 if at == name else leaf for at, leaf in zip(names, leaves, strict=True)])
            np.testing.assert_allclose(gap(after, level.name), 0.99 * gap(before, level.name), rtol=2e-3)


def test_prefill_replicas_decode_nothing(found):
    for level in found.levels[2:]:
        assert [float(part.replica.batch_size) == 0.0 for part in level.plan.parts] == [True, False]


def test_drafting_takes_a_layer_and_a_head_for_every_token():
    replica = Replica(8.0, 8.0, 1.0, 32.0, 2.0)
    plain, drafted = (
        step(setting_of("deepseek-v3", drafted=n, accepted=1.0 + 0.5 * n), replica, 32.0, 0.0) for n in (0.0, 2.0)
    )
    # the same work without a draft layer
    model = eqx.tree_at(lambda m: m.drafts, load_model("deepseek-v3"), jnp.asarray(0.0))
    bare = step(
        dataclasses.replace(setting_of("deepseek-v3", drafted=2.0, accepted=2.0), model=model), replica, 32.0, 0.0
    )
    layer = float(drafted.attention + drafted.out + drafted.ffn + drafted.back)
    head = float(drafted.serial - bare.serial) / 2.0 - layer
    assert 0.0 < head < layer and float(bare.time) > float(plain.time)
    np.testing.assert_allclose(float(drafted.time - bare.time), 2.0 * 2.0 * (layer + head), rtol=1e-6)


# To the planner


def test_a_plan_becomes_a_bundle(found):
    replica = eqx.tree_at(lambda r: r.chunk, found.levels[1].plan.parts[0].replica, jnp.asarray(0.0))
    profile, bundle, workers = as_bundle(found.question.setting, replica)
    now = step(found.question.setting, replica, replica.batch_size, 0.0)
    batch, context = float(replica.batch_size), float(found.question.setting.requests.decode_context)
    rounds = float(bundle.layers)
    contexts = found.question.setting.requests.decode_contexts
    of_slot = jax.vmap(getattr(profile.attention, "slot_cost", lambda context: context))
    cost = jnp.mean(of_slot(contexts))
    np.testing.assert_allclose(
        profile.attention(batch * cost, batch), 1e6 * (now.attention + now.serial / rounds), rtol=1e-9
    )
    np.testing.assert_allclose(profile.ffn(workers * batch, batch), 1e6 * now.ffn, rtol=1e-6)
    np.testing.assert_allclose(profile.communication(batch, workers), 1e6 * (now.out + now.back), rtol=1e-9)
    still = afd.Requests(np.array([round(context)]), np.array([1]))
    cycle = float(afd.cycle_time(still, profile, bundle, float(workers), afd.MeanField()))
    # the same schedule, seen by the planner: its circuits are bounds of the pipeline
    tpot = bundle.in_flight * cycle * 1e-6
    assert tpot <= float(now.time) * (1 + 1e-6) and tpot >= 0.9 * float(now.time) - 2 * float(now.attention + now.ffn)
    # a replica that works on prompts as well: its FFN sees those tokens, too
    replica = found.levels[1].plan.parts[0].replica
    profile, _, _ = as_bundle(found.question.setting, replica)
    mixed = step(found.question.setting, replica, batch, batch * 512 / 256)
    np.testing.assert_allclose(profile.ffn(workers * batch, batch), 1e6 * mixed.ffn, rtol=1e-6)
    # attention is a tangent in the tokens that are decoded, whatever prompts are beside them
    shifted = eqx.tree_at(lambda s: s.requests.lingering, found.question.setting, jnp.asarray(64.0))
    both = [step(each, replica, batch, batch * 512 / 256) for each in (shifted, found.question.setting)]
    up, down = (float(each.attention + each.serial / rounds) for each in both)
    more = jnp.mean(of_slot(contexts + 64.0)) - cost
    np.testing.assert_allclose(profile.attention.per_token * batch * more, 1e6 * (up - down), rtol=1e-3)
    with pytest.raises(ValueError, match="must have FFN devices"):
        as_bundle(found.question.setting, found.levels[0].plan.parts[0].replica)


@pytest.mark.parametrize("name, window, beyond", [("gpt-oss-120b", 128.0, 0.5), ("deepseek-v3.2", 2048.0, None)])
def test_attention_to_a_part_of_a_context_becomes_a_slot_cost(found, name, window, beyond):
    """Layers that alternate, and sparse attention with its indexer: the time at the plan, and the cost of every context."""
    replica = eqx.tree_at(lambda r: r.chunk, found.levels[1].plan.parts[0].replica, jnp.asarray(0.0))
    law = afd.Requests(RNG_PROMPTS, np.full(len(RNG_PROMPTS), 300))
    setting = dataclasses.replace(found.question.setting, model=load_model(name), requests=use_case_of(law))
    profile, bundle, _ = as_bundle(setting, replica)
    attention = profile.attention
    np.testing.assert_allclose(attention.window, window, rtol=1e-6)
    if beyond is not None:
        np.testing.assert_allclose(attention.beyond, beyond, rtol=1e-6)
    batch, rounds = float(replica.batch_size), float(bundle.layers)
    now = step(setting, replica, batch, 0.0)
    load = batch * float(profile.slot_load(law).theta)
    np.testing.assert_allclose(attention(load, batch), 1e6 * (now.attention + now.serial / rounds), rtol=1e-3)
    for context in (0.5 * window, 10.0 * window):
        alike = eqx.tree_at(
            lambda s: (s.requests.lingering, s.requests.spread),
            setting,
            (setting.requests.lingering + context - setting.requests.decode_context, jnp.zeros(1)),
        )
        other = step(alike, replica, batch, 0.0)
        difference = attention(batch * attention.slot_cost(context), batch) - attention(load, batch)
        expected = 1e6 * (other.attention - now.attention + (other.serial - now.serial) / rounds)
        np.testing.assert_allclose(difference, expected, rtol=2e-3)


RNG_PROMPTS = np.random.default_rng(2).lognormal(7.5, 1.2, 200).round()


# Documents


def test_a_saved_document_prints_the_text_of_the_run(found):
    document = found.to_dict(sensitivity=True, of_model=False)
    assert exploration_report(json.loads(json.dumps(document, allow_nan=False))) == exploration_report(document)
    # the text of a result itself leaves the ranking out
    assert exploration_report(document).startswith(str(found)) and "efficiency.kernel" not in str(found)
    none = search(setting_of(), 16, Targets(tpot=1e-3))
    assert str(none) == exploration_report(json.loads(none.to_json(sensitivity=True)))
    assert "tpot-missed: the least TPOT" in str(none)
    small = search(setting_of(), 2)
    assert f"weights-do-not-fit: {REASONS['weights-do-not-fit']}" in " ".join(str(small).split())
    assert set(document["meanings"]) == {code for uses in found.uses.values() for use in uses for code in use.binds} | {
        code for level in found.levels for code in level.reasons
    }


def test_a_document_has_what_a_person_needs_to_repeat_it(found):
    setting = setting_of(accepted=1.5, drafted=1.0)
    document = search(setting, 16, Targets(ttft=0.5), Corrections(ttft=1.5), rules=("divisible",)).to_dict()
    options = document["made_by"]["options"]
    again = dataclasses.replace(
        setting_of(document["model"], document["devices"][0]["accelerator"], UseCase(**document["requests"])),
        schedule=SCHEDULES[options["schedule"]],
        network=Network(routes=ROUTES[options["routes"]]),
        accepted=options["accepted"],
        drafted=options["drafted"],
    )
    repeated = search(
        again,
        [pool["count"] for pool in document["devices"]],
        Targets(**{name: math.inf if value is None else value for name, value in document["targets"].items()}),
        Corrections(**options["corrections"]),
        document["objective"],
        options["rules"],
    )
    assert repeated.to_dict() == document
    assert set(document["made_by"]["versions"]) >= {"afdjax", "jax", "python"}
    assert document["formats"] == {"attention": "fp8", "experts": "fp8", "rest": "fp8", "cache": "fp8"}
    experts = setting.model.layers[-1].ffn
    assert isinstance(experts, Experts)
    skewed = drawn(jax.random.key(0), experts, zipf(256, 0.5), draws=1)
    of = [
        dataclasses.replace(found.question, setting=dataclasses.replace(setting, imbalance=each))
        for each in (Even(1.5), skewed, eqx.tree_at(lambda d: d.busiest.ratios, skewed, 2.0 * skewed.busiest.ratios))
    ]
    even, one, other = (asked(question)["made_by"]["options"]["imbalance"] for question in of)
    assert even == {"kind": "even", "factor": 1.5} and one["kind"] == "drawn" and one["digest"] != other["digest"]


@pytest.mark.parametrize("module", ["afdjax.report.exploration", "afdjax.figures.exploration"])
def test_text_and_pictures_need_no_jax(module):
    code = f"import {module}, sys; sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The command


class AtOnce(Executor):
    """In this thread, whose log is read."""

    def submit(self, fn, /, *args, **kwargs):
        done = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@pytest.mark.usefixtures("no_programs")
def test_programs_are_compiled_ahead(found, caplog):
    """What was compiled before there was a plan is what searches and explains, nothing else is compiled then."""
    setting = dataclasses.replace(found.question.setting, with_attention=("router",))
    other = dataclasses.replace(found, question=dataclasses.replace(found.question, setting=setting))
    fleet = Fleet.of(setting, 4)

    def compiled(do):
        caplog.clear()
        with jax.log_compiles():
            do()
        return sum(bool(re.search(r"XLA compilation of jit\(_(evaluated|facts)", each)) for each in caplog.messages)

    ahead = lambda: (evaluation_ahead(AtOnce(), setting, fleet), facts_ahead(AtOnce(), setting, fleet))
    assert compiled(ahead) == 2
    assert compiled(lambda: search(setting, fleet, other.question.targets)) == 0
    assert compiled(lambda: (other.margins, other.uses)) == 0


SMALL = ("--model", "deepseek-v3.2", "--gpus", "16xb200", "--workload", "4096/512/256")


def test_the_command_shows_every_level_and_writes_a_profile(run, command, tmp_path):
    out, picture = tmp_path / "afd.json", tmp_path / "frontier.png"
    shown = run("explore", *SMALL, "--tpot", "30ms", "--sensitivity", "-o", out, "--plot", picture)
    for text in (*LEVELS, "gives", "efficiency.experts", "afdjax plan --profile"):
        assert text in shown, text
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    profile = afd.load_profile(out)
    assert profile.time_unit == "us" and isinstance(profile.ffn, afd.ExpertHit)
    bundle = afd.load_bundle(out)
    assert bundle.in_flight >= 1 and float(bundle.layers) == 58.0 and float(bundle.ffn_weight) >= 1.0
    planned = json.loads(run("plan", "--profile", out, "--json", "--barrier", "gaussian"))
    assert planned["bundle"]["batch_size"] == float(bundle.batch_size)
    shown = run("explore", *SMALL, "--tpot", "30ms", "-o", out, "--level", "disaggregated-afd")
    assert "(disaggregated-afd, " in shown
    ended = command("explore", *SMALL, "--ttft", "1ms", "--json")
    document = json.loads(ended.out)
    assert (ended.status, ended.err) == (3, f"afdjax: {document['advice'][0]}\n") and document["best"] is None
    assert [level["verdict"] for level in document["levels"]] == ["ttft-missed"] * 4
    assert all(level["floor"]["ttft"] > 1e-3 for level in document["levels"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "deepseek-v33"), "did you mean deepseek-v3"),
        (
            ("--gpus", "128"),
            "--gpus must be a number and an accelerator such as 128xb200, or two such as 64xh20+32xl40s, but it is 128",
        ),
        (("--gpus", "0xb200"), "--gpus must be a whole number from 1 to 1,024, but it is 0"),
        (("--gpus", "8xb2000"), "did you mean b200"),
        (
            ("--tpot", "15"),
            "--tpot must be a time from 1e-9s to 1e9s with its unit such as 50ms or 0.5s, but it is '15'",
        ),
        (("--ttft", "0ms"), "--ttft must be a time from 1e-9s to 1e9s"),
        (("--workload", "nonsense"), "nonsense: no such workload"),
        (("--workload", "0/0/10"), "prompt of --workload must be a number from 1 to 100,000,000, but it is 0"),
        (("--weights", "fp3"), "--weights must be one of bf16"),
        (("--cache", "fp3"), "--cache must be one of bf16"),
        (("--with-attention", "head"), "--with-attention must be of router, shared, dense, but it has head"),
        (("--imbalance", "0"), "--imbalance must be a number from 1 to 10,000, but it is 0"),
        (("--plot", "x.pdf"), "x.pdf: must end in .png"),
        (("--gpus", "2xh20+2xh800+1xl20"), "--gpus must be a number and an accelerator such as 128xb200, or two"),
        (("--gpus", "2xh20+0xh800"), "--gpus must be a whole number from 1 to 1,024, but it is 0"),
        (("--objective", "beauty"), "--objective must be one of throughput, price, power, but it is beauty"),
        (("--gpus", "2xb200", "--objective", "price"), "--objective price needs the price of b200"),
        (("--rule", "even"), "--rule must be one of whole-experts"),
        (("--schedule", "fast"), "--schedule must be one of four-stage"),
        (("--routes", "around"), "--routes must be one of per-node"),
        (("--skew", "-1"), "--skew must be from 0 (all experts alike) to 10"),
        (("--skew", "1", "--imbalance", "2"), "--imbalance and --skew say the same in two ways"),
        (("--accepted", "2"), "--accepted must be at most 1 + drafted, but it is 2"),
        (("--drafted", "-1"), "--drafted must be a number from 0 to 1,000, but it is -1"),
        (("--level", "aggregated", "-o", "x.json"), "--level must be one of aggregated-afd, disaggregated-afd"),
        (("--level", "aggregated-afd"), "--level says whose plan -o writes"),
        (("--fit",), "--fit needs --tables of one kind of device"),
        (("--tables", "nothing.csv"), "nothing.csv: must be a file that can be read"),
    ],
)
def test_bad_input_is_refused_in_one_line(refused, arguments, message):
    assert message in refused("explore", "--gpus", "8xb200", *arguments)


def test_nothing_to_write_where_no_plan_has_ffn_devices(command, tmp_path):
    ended = command("explore", *SMALL, "--tpot", "1ms", "-o", "afd.json")
    assert ended.status == 3 and not (tmp_path / "afd.json").exists() and "tpot-missed" in ended.out
    assert ended.err.startswith("afdjax: afd.json was not written: ")
    assert "There is no plan: a step takes longer than the target (aggregated-afd, disaggregated-afd)" in ended.err
