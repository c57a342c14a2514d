"""The words of reports, messages and documents, each in a sentence or two."""

from afdjax.report.layout import pairs, render


GLOSSARY = {
    "attention worker": "A device, or a group of devices, that runs attention and holds the KV caches of its requests.",
    "barrier": "A step waits for the slowest attention worker. The model treats that wait exactly, by a normal law "
    "(Gaussian), or not at all (mean field).",
    "batch size B": "Slots of one attention worker in one microbatch.",
    "bundle": "What is sized: attention workers, the FFN workers that they share, and the microbatches between them.",
    "cycle time": "Time between two completed microbatch steps of a bundle.",
    "decode step": "One pass through all layers, which makes one token for every request of a microbatch.",
    "FFN worker": "A device, or a group of devices, that runs the FFN or expert layers for all attention workers of a bundle.",
    "form": "The formula of a stage time, such as affine (base + per_token x tokens) or a table that is interpolated.",
    "idle": "Share of the time in which a side of the bundle waits: for the barrier, the other stage, or communication.",
    "in flight m": "Microbatches that are under way at once, so that attention, communication and FFN overlap.",
    "instance": "A worker of either kind. Throughput per instance divides by all workers of the bundle, weighted by their "
    "costs.",
    "level": "How far serving is taken apart: aggregated, prefill and decode apart (disaggregated), attention and FFN apart "
    "(aggregated-afd), or both (disaggregated-afd).",
    "microbatch": "The requests that pass through the stages together: B slots of every attention worker.",
    "near tie": "Two plans whose difference is smaller than the error of the stage times.",
    "nu": "Standard deviation of the token load of one slot [tokens].",
    "profile": "The stage times of one device or pair of devices, with their coefficients and, where known, their errors.",
    "ratio r*": "The best number of attention workers for one FFN worker; a real number, from which whole bundles follow.",
    "regime": "What limits a bundle: attention, the FFN, or communication.",
    "regret": "Share of the throughput that a choice loses against the best choice there.",
    "round trip": "The way of a microbatch from attention to FFN and back.",
    "slot": "Place for one request in a microbatch. It is refilled as soon as its request is done.",
    "slot cost": "What a slot adds to the work of attention, where attention does not read every token of the context.",
    "stage": "Attention, FFN or communication: the parts of a decode step whose times a profile has.",
    "straggler": "The attention worker with the largest load of a step, for which the others wait.",
    "theta": "Mean token load of one slot [tokens]: what its request has in the KV cache, averaged over decode steps.",
    "token load T": "Tokens in the KV cache that an attention worker reads in one step.",
    "TPOT": "Time per output token: from one token of a request to its next.",
    "TTFT": "Time to the first token: from the arrival of a request to its first token.",
    "workload": "The law of prompt and decode lengths of requests, or a log of them.",
    "xA-yF": "A bundle of x attention workers and y FFN workers, such as 20A-1F.",
}


def glossary_report() -> str:
    """What `afdjax glossary` prints."""
    return render(pairs(list(GLOSSARY.items())))
