"""One replica in plain Python floats: the formulas of `afdjax.explore` once more, as loops of floats, for one model.

DeepSeek-V3 (MLA, three dense layers, experts with one shared), FP8 weights and cache.
"""

import math


H, HEADS, QR, KR, NOPE, ROPE, V = 7168, 128, 1536, 512, 128, 64, 128
EXPERTS, TOP, INTER, DENSE, VOCAB, LAYERS, FIRST = 256, 8, 2048, 18432, 129280, 61, 3
ATTENTION = QR * (H + HEADS * (NOPE + ROPE)) + H * (KR + ROPE) + KR * HEADS * (NOPE + V) + HEADS * V * H
EXPERT, SHARED, ROUTER = 3 * H * INTER, 3 * H * INTER, H * EXPERTS
GIB = 2**30


def meets(held: float) -> float:
    """Probability that a token meets one of so many experts."""
    there = EXPERTS - held
    if there <= TOP - 1:
        return 1.0
    log_choose = lambda n: math.lgamma(n + 1) - math.lgamma(n - TOP + 1)
    return 1 - math.exp(log_choose(there) - log_choose(EXPERTS))


def step_of(
    device, reached, lengths, near, far, tp, m, decoding, prompt, with_attention=("router", "dense"), imbalance=1.0
):
    """Time [s] of a step of m microbatches with `decoding` requests and `prompt` prompt tokens in each group."""
    prefix, new, output = lengths
    tokens, context, seen = decoding + prompt, prefix + new + output / 2, prefix + new / 2
    bandwidth, fp8 = device["bandwidth"] * reached["memory"], device["fp8"]
    product = lambda weights, n: weights / bandwidth + 2 * n * weights / (fp8 * reached["dense"])
    core = fp8 * reached["attention"] * tp
    read = decoding * context * (KR + ROPE) / bandwidth
    work = decoding * 2 * HEADS * (2 * KR + ROPE) * context / core
    prefill = prompt * 2 * HEADS * (NOPE + ROPE + V) * seen / core
    up, out = device["up"] * reached["scale_up"], device["out"] * reached["scale_out"]
    far_away = 2 * max(device["up_latency"], device["out_latency"]) + reached["kernel"]
    within = tp <= device["size"]
    link = up if within else min(up, out)
    latency = device["up_latency"] + reached["kernel"] if within else far_away
    reduce = latency + 2 * (tp - 1) / tp * tokens * H * 2 / link if tp > 1 else 0.0
    mixing = product(ATTENTION / tp, tokens) + max(read, work) + prefill + 10 * reached["kernel"] + reduce
    groups, holders = near / tp, far or near
    everyone = tokens * groups
    routed = mixing
    routed += product(ROUTER, tokens / tp) if "router" in with_attention else 0.0
    routed += product(SHARED, tokens / tp) if "shared" in with_attention else 0.0
    hit = EXPERTS * (1 - (1 - TOP / EXPERTS) ** everyone)
    held = math.ceil(EXPERTS / holders) / EXPERTS
    uneven = imbalance if holders > 1 else 1.0
    grouped = hit * EXPERT * held / bandwidth + 2 * everyone * TOP * EXPERT * held * uneven / (fp8 * reached["experts"])
    ffn = grouped + 3 * reached["kernel"]
    ffn += 0.0 if "shared" in with_attention else product(SHARED, everyone / holders)
    ffn += 0.0 if "router" in with_attention else product(ROUTER, everyone / holders)
    nodes = max(holders / device["size"], 1)

    def travel(senders, sent, copies, node_copies, got, node_got, apart, element):
        """Of each of `sent` tokens of every sender `copies` and `node_copies` leave, and so many of all reach one device."""
        crosses = senders + (holders if apart else 0) > device["size"]
        leave = 0.0 if crosses and apart else copies
        along = sent * max(leave, senders * got) * H * element / up
        if not crosses:
            return device["up_latency"] + reached["kernel"] + along
        return far_away + max(sent * max(node_copies, senders * node_got) * H * element / out, along)

    def to_experts(senders, sent, apart, element):
        if not apart and holders == 1:
            return 0.0
        stay, near = (0, 0) if apart else (1 / holders, 1 / nodes)
        uneven, uneven_nodes = (imbalance if n > 1 else 1.0 for n in (holders, nodes))
        copies, got = holders * meets(EXPERTS / holders) * (1 - stay), meets(held * EXPERTS) * (1 - stay) * uneven
        node_copies = nodes * meets(EXPERTS / nodes) * (1 - near)
        node_got = meets(EXPERTS / nodes) * (1 - near) / min(holders, device["size"]) * uneven_nodes
        return travel(senders, sent, copies, node_copies, got, node_got, apart, element)

    elements = 1.0 + 4 / 128, 2.0
    to_one = [travel(near, tokens / tp, 1.0, 1.0, 1 / holders, 1 / holders, True, each) for each in elements]
    if far and "router" not in with_attention:
        sent_out, sent_back = (
            one + to_experts(holders, everyone / holders, False, each)
            for one, each in zip(to_one, elements, strict=True)
        )
    else:
        sent_out, sent_back = (to_experts(near, tokens / tp, bool(far), each) for each in elements)
    if far and "dense" not in with_attention:
        dense = product(3 * H * DENSE, everyone / holders) + 3 * reached["kernel"] + sum(to_one)
    else:
        dense = product(3 * H * DENSE / tp, tokens) + 3 * reached["kernel"] + reduce
    rounds = LAYERS - FIRST
    head = H * VOCAB / tp * 2 / bandwidth + 2 * decoding * H * VOCAB / tp / (device["bf16"] * reached["dense"])
    stages = (routed, sent_out, ffn, sent_back) if far else (routed + ffn, sent_out + sent_back)
    serial = FIRST * (mixing + dense) + head
    once, longest = sum(stages), max(stages)
    return max(rounds * once, m * rounds * longest + once - longest) + m * serial


def spare_of(device, reserve, lengths, near, far, tp, resident, with_attention=("router", "dense")):
    """Least bytes left on a device."""
    own = (ATTENTION * LAYERS + 2 * 2 * H * VOCAB) / tp
    experts = (LAYERS - FIRST) * math.ceil(EXPERTS / (far or near)) * EXPERT
    dense = 3 * H * DENSE * FIRST
    for part, size in {
        "router": (LAYERS - FIRST) * ROUTER,
        "shared": (LAYERS - FIRST) * SHARED,
        "dense": dense,
    }.items():
        if part in with_attention or not far:
            own += size / tp if part == "dense" else size
        else:
            experts += size
    cache = resident * LAYERS * (KR + ROPE) * sum(lengths)
    memory = device["memory"] - reserve
    return min(memory - own - cache, memory - experts) if far else memory - own - experts - cache
