"""Searches over two pools, by price and power, under a runtime's rules; and what binds a plan."""

import dataclasses
import itertools
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from afdjax.explore import Corrections, Replica, Setting, Targets, UseCase, elasticities, load_model, search
from afdjax.explore.costs.routing import Even
from afdjax.explore.explain.sensitivity import name_of, rate
from afdjax.explore.explain.uses import BINDINGS
from afdjax.explore.plans.plan import devices_in_use
from afdjax.explore.plans.rules import RULES
from afdjax.explore.replicas.outcomes import chunked, decode_only, spare, step, times, transfer_time
from afdjax.hardware.files import load_accelerator
from afdjax.report.exploration import exploration_report


def setting_of(near="h20", far="h100", model="qwen3-30b", **changes) -> Setting:
    return Setting(
        load_model(model), load_accelerator(near), load_accelerator(far), UseCase(0, 1024, 256), cache="fp8", **changes
    )


@pytest.fixture(scope="module")
def both():
    return search(setting_of(accepted=1.5, drafted=1.0), (4, 3), Targets(ttft=1.0, tpot=0.05))


def used(found, plan):
    """Devices of each pool that a plan has."""
    return devices_in_use(plan.parts, len(found.question.fleet.counts))


def test_plans_on_two_pools_keep_both_budgets(both):
    rates = eqx.filter_jit(lambda: [rate(both.question, level.plan) for level in both.levels])()
    np.testing.assert_allclose(rates, [level.plan.tokens_per_s for level in both.levels], rtol=1e-6)
    assert str(both.question.fleet) == "4 x h20 + 3 x h100"
    for level in both.levels:
        assert level.plan is not None and (used(both, level.plan) <= both.question.fleet.counts).all(), level.name
        for part in level.plan.parts:
            here = both.question.placed(part.place)
            kinds = [("h20", "h100")[pool] for pool in part.place]
            assert [here.attention_device.name, here.ffn_device.name] == [kinds[0], kinds[-1]]


def test_replicas_side_by_side_are_those_of_each_pool(both):
    alone = [
        search(setting_of(kind, kind, accepted=1.5, drafted=1.0), count, both.question.targets).levels[0]
        for kind, count in (("h20", 4), ("h100", 3))
    ]
    np.testing.assert_allclose(both.levels[0].plan.tokens_per_s, sum(level.plan.tokens_per_s for level in alone))
    for level, name in zip(both.levels[1:], ("aggregated-afd", "disaggregated", "disaggregated-afd"), strict=True):
        assert level.name == name


def test_two_pools_of_the_same_kind_are_no_worse_than_split_and_no_better_than_one(free):
    setting, targets = free.question.setting, free.question.targets
    two, half = search(setting, (3, 3), targets), search(setting, 3, targets)
    for whole, split, part in zip(free.levels, two.levels, half.levels, strict=True):
        assert split.plan.tokens_per_s <= whole.plan.tokens_per_s * (1 + 1e-6), whole.name
        if whole.name.startswith("aggregated"):
            assert split.plan.tokens_per_s >= 2 * part.plan.tokens_per_s * (1 - 1e-6), whole.name


def test_attention_and_ffn_search_finds_what_an_exhaustive_one_finds():
    """Every split, group, batch and depth of five devices; the search looks at a grid and around its best."""
    setting, targets = setting_of("h100", "h100"), Targets(tpot=0.02)
    found = search(setting, 5, targets)
    rows = [
        (near, far, tp, batch, m, 0.0)
        for near, far in itertools.product(range(1, 5), repeat=2)
        if near + far <= 5
        for tp in (1, 2, 4)
        if near % tp == 0
        for batch in range(1, 700)
        for m in (1, 2, 3, 4)
    ]
    with jax.enable_x64(True):
        columns = jnp.asarray(np.array(rows).T)

        @jax.jit
        @jax.vmap
        def outcome(*numbers):
            replica = Replica(*numbers)
            of = decode_only(setting, replica, times(setting, replica))
            return of.tokens_per_s, of.tpot, spare(setting, replica)[0]

        rates, tpot, left = map(np.asarray, outcome(*columns))
    good = (left >= 0) & (tpot <= targets.tpot)
    decode = found.levels[3].plan.parts[1]
    best = {n: rates[good & (np.array(rows)[:, 0] + np.array(rows)[:, 1] == n)].max() for n in (2, 3, 4)}
    size = decode.devices // decode.count
    assert float(decode.outcome.tokens_per_s) >= 0.99 * best[size]


def test_chosen_by_price_and_by_power():
    setting, targets = setting_of("h800", "h20"), Targets(ttft=1.0, tpot=0.05)
    fast = search(setting, (2, 2), targets)
    for objective in ("price", "power"):
        found = search(setting, (2, 2), targets, objective=objective)
        weights = [float(getattr(device, objective)) for device in (setting.attention_device, setting.ffn_device)]
        for level in found.levels:
            plan = level.plan
            np.testing.assert_allclose(plan.value, plan.tokens_per_s / (used(found, plan) @ weights), rtol=1e-9)
        assert fast.best.plan.tokens_per_s >= found.best.plan.tokens_per_s
        # what is best for its cost is there as often as it fits
        assert (2 * used(found, found.best.plan) > found.question.fleet.counts).any()
        cheap = fast.best.plan.tokens_per_s / (used(fast, fast.best.plan) @ weights)
        assert found.best.plan.value >= cheap * (1 - 1e-9)
    # MegaScale-Infer's relative prices do where there is no hourly one
    relative = search(setting_of("h20", "l40s"), (2, 2), Targets(tpot=0.1), objective="price")
    assert relative.best is not None
    with pytest.raises(
        ValueError, match=r"`objective` price needs the price of b200, which is not known: give it in a file"
    ):
        search(setting_of("b200", "b200"), 4, objective="price")


@pytest.fixture(scope="module")
def free():
    return search(setting_of("h100", "h100"), 6, Targets(ttft=1.0, tpot=0.05))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_rules_of_runtimes_are_kept(rule, free):
    found = search(free.question.setting, 6, free.question.targets, rules=[rule])
    for level, other in zip(found.levels, free.levels, strict=True):
        assert level.candidates < other.candidates or not level.name.endswith("afd")
        if level.plan is None:
            continue
        for part in level.plan.parts:
            near, far = float(part.replica.attention_devices), float(part.replica.ffn_devices)
            kept = {
                "whole-experts": 128 % (far or near) == 0,
                "divisible": far == 0 or near % far == 0 or far % near == 0,
                "attention-first": near >= far,
                "whole-nodes": all(8 % n == 0 or n % 8 == 0 for n in (near, far) if n),
            }
            assert kept[rule], part


def test_unknown_objectives_rules_and_pools():
    for arguments, message in (
        ({"objective": "beauty"}, "`objective` must be one of throughput, price, power, but it is beauty"),
        ({"rules": ["even"]}, "`rules` must be one of whole-experts, .*, but it is even"),
        ({"devices": (1, 2, 3)}, "`devices` must be one number or two"),
        ({"devices": (4, 0)}, "`devices` must be a whole number from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            options: dict[str, Any] = {"devices": (2, 2)} | arguments
            search(setting_of(), **options)


def test_corrections_of_replicas_that_do_everything():
    targets = Targets(ttft=0.2, tpot=0.05)
    plain, corrected = (
        search(setting_of("h100", "h100"), 4, targets, Corrections(whole_ttft=factor)) for factor in (1.0, 2.0)
    )
    for level, other in zip(plain.levels[:2], corrected.levels[:2], strict=True):
        assert other.plan.ttft <= 0.2 and other.plan.tokens_per_s <= level.plan.tokens_per_s
        np.testing.assert_allclose(other.floor.ttft, 2.0 * level.floor.ttft, rtol=0.3)


# Derivatives


def test_elasticities_on_two_pools_against_central_differences(both):
    level = both.levels[3]
    rng = np.random.default_rng(5)
    off = lambda leaf: leaf * np.exp(0.02 * rng.standard_normal()) if eqx.is_inexact_array(leaf) else leaf
    setting = jax.tree.map(off, both.question.setting)
    slopes = elasticities(dataclasses.replace(both.question, setting=setting), level.plan)
    assert {name.split(".")[0] for name in slopes} >= {"attention_device", "ffn_device", "efficiency", "imbalance"}
    leaves, tree = jax.tree_util.tree_flatten_with_path(setting)
    names = [name_of(path) for path, _ in leaves]
    there = lambda moved: dataclasses.replace(both.question, setting=jax.tree.unflatten(tree, moved))
    at = eqx.filter_jit(lambda moved: jnp.log(rate(there(moved), level.plan)))
    for name in (
        "attention_device.bandwidth",
        "ffn_device.bandwidth",
        "ffn_device.peak.fp8",
        "efficiency.kernel",
        "requests.prompt",
    ):
        i = names.index(name)
        log_rate = lambda h, i=i: float(
            at([leaf * np.exp(h) if j == i else leaf for j, (_, leaf) in enumerate(leaves)])
        )
        np.testing.assert_allclose(
            slopes.get(name, 0.0), (log_rate(1e-5) - log_rate(-1e-5)) / 2e-5, atol=2e-5, err_msg=name
        )
    assert set(both.margins) <= {level.name for level in both.levels}


# What binds


def test_what_binds_and_what_links_need():
    fast = load_accelerator("h100")
    links = lambda device: (device.scale_up.bandwidth, device.scale_out.bandwidth)
    slow = eqx.tree_at(links, fast, (jnp.asarray(1e9), jnp.asarray(1e9)))
    for name, device in {"network": slow, "plain": fast}.items():
        setting = Setting(load_model("qwen3-30b"), device, device, UseCase(0, 1024, 256), cache="fp8")
        found, seen = search(setting, 4, Targets(tpot=0.2)), set()
        for level in found.levels:
            for part, use in zip(level.plan.parts, found.uses[level.name], strict=True):
                replica = part.replica
                assert set(use.binds) <= set(BINDINGS)
                seen |= set(use.binds)
                # of a replica that does everything a mean step: four prompt tokens come with every decoded one
                prompt = replica.chunk if part.kind == "prefill" else min(replica.chunk, 4.0 * replica.batch_size)
                now = step(setting, replica, replica.batch_size, prompt)
                if bool(replica.apart):
                    transfers, work = max(now.out, now.back), max(now.attention, now.ffn)
                else:
                    transfers, work = now.out + now.back, now.attention + now.ffn
                longest = "network" if transfers > work else "attention" if now.attention >= now.ffn else "expert"
                assert use.binds[0].startswith(longest), part
                assert (use.links > 1.0) == (longest == "network")
        assert ("network" in seen) == (name == "network")


def test_two_kinds_of_devices_share_no_scale_up_domain(both):
    assert [both.question.placed(place).joined for place in ((0,), (1,), (0, 0), (0, 1), (1, 0))] == [True] * 3 + [
        False
    ] * 2
    setting = both.question.setting.on(
        both.question.setting.attention_device, both.question.setting.ffn_device, joined=False
    )
    replica = Replica(2.0, 2.0, 1.0, 64.0, 2.0)
    apart, joint = (step(each, replica, 64.0, 0.0) for each in (setting, dataclasses.replace(setting, joined=True)))
    assert float(apart.back) > float(joint.back) and float(apart.attention) == float(joint.attention)
    assert setting.between.crosses(jnp.asarray(2.0)) and not setting.within(setting.ffn_device).crosses(
        jnp.asarray(2.0)
    )


def test_memory_that_binds_is_memory_without_room_for_a_request():
    found = search(setting_of("l20", "l20"), 4)
    plan = found.levels[0].plan
    (use,) = found.uses[found.levels[0].name]
    assert "memory" in use.binds
    held = use.weights + use.cache
    limit = float(found.question.setting.attention_device.memory - found.question.setting.reserve)
    assert held <= limit < held + use.cache / float(plan.parts[0].replica.batch_size) * 1.5


def test_transfers_of_caches_go_at_the_slower_pace():
    setting = setting_of("h100", "l40s")
    assert float(transfer_time(setting)) == float(transfer_time(setting.on(setting.ffn_device, setting.ffn_device)))


# The command


SMALL = ("--model", "qwen3-30b", "--workload", "0/1024/256", "--tpot", "50ms")


def test_the_command_with_everything(run):
    everything = (
        *SMALL, "--gpus", "2xh20+2xh800", "--objective", "price", "--skew", 0.3, "--rule", "whole-experts",
        "--schedule", "three-stage", "--routes", "per-device", "--accepted", 1.6, "--drafted", 1,
    )  # fmt: skip
    document = json.loads(run("explore", *everything, "--json"))
    assert document["objective"] == "price"
    assert document["devices"] == [{"count": 2, "accelerator": "h20"}, {"count": 2, "accelerator": "h800"}]
    for level in document["levels"]:
        for part in level["plan"]["parts"]:
            assert part["attention_accelerator"] in ("h20", "h800") and set(part["binds"]) <= set(BINDINGS)
            assert set(part["bytes"]) == {"weights", "cache", "ffn_weights"}
    shown = exploration_report(document)
    assert "2 x h20 + 2 x h800" in shown and "limited by" in shown


def test_settings_take_other_devices_and_imbalances():
    setting = dataclasses.replace(setting_of(), imbalance=Even(1.5))
    replica = Replica(2.0, 2.0, 1.0, 64.0, 2.0, 512.0)
    outcome = chunked(setting, replica, times(setting, replica))
    assert float(outcome.tpot) > float(chunked(setting_of(), replica, times(setting_of(), replica)).tpot)
    assert setting.on(setting.ffn_device, setting.attention_device).attention_device.name == "h100"
