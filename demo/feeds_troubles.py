"""What goes wrong on the receivers' side, and with the node: what at all, when, and how it ends."""

import asyncio

KINDS = {
    # `replay`: it refuses for some seconds while users withdraw, and whoever runs it lets everything be sent again before it
    # takes anything. Comes last: what went wrong there must not be healed by the loss of a disk.
    "webhook": ("kill", "refuse", "slow", "lose-disk", "replay"),
    "sse": ("kill", "drop", "slow", "lose-disk"),
    "pages": ("kill", "drop", "slow", "lose-disk"),
    "topic": ("kill", "drop", "slow", "lose-disk"),
    "segment": ("kill", "refuse", "slow", "lose-disk"),
}
NODE_KILLS = 2


def plan(rng, receivers, rounds, seconds, wanted):
    """For each of the receivers, and the node, what happens when: each in an equal part of the run of its own."""
    troubles = []
    kinds = {**{name: KINDS[name] for name in receivers}, "node": ("kill",) * NODE_KILLS}
    for name, of_name in kinds.items():
        of_name = [kind for kind in of_name if f"{name}-{kind}" in wanted]
        if name != "node":
            of_name = [kind for _ in range(rounds) for kind in rng.sample(of_name, len(of_name))]
        row = sorted(of_name, key=lambda kind: kind == "replay")
        # None at the very beginning or end, so that there are changes before and after.
        part = seconds / max(len(row), 1)
        troubles += [(part * (n + rng.uniform(0.1, 0.6)), name, kind) for n, kind in enumerate(row)]
    return sorted(troubles)


def all_kinds():
    return [f"{name}-{kind}" for name, kinds in KINDS.items() for kind in kinds] + ["node-kill"]


async def make(kind, actor, replay, withdraw, rng):
    """One trouble of one receiver. `replay` asks the server to begin anew with it, `withdraw` lets some users go."""
    if kind == "kill":
        await actor.kill()
        await asyncio.sleep(rng.uniform(0.5, 2.5))
        await actor.start()
    elif kind == "drop":
        for _ in range(3):
            actor.order({"do": "drop"})
            await asyncio.sleep(rng.uniform(0.1, 0.5))
    elif kind == "lose-disk":
        await actor.kill()
        actor.lose_disk()
        if actor.is_pushed:
            await replay(actor.name, "snapshot")
        await actor.start()
    elif not actor.is_pushed:
        actor.order({"do": "slow", "delay": rng.uniform(0.005, 0.02)})
        await asyncio.sleep(rng.uniform(2, 4))
        actor.order({"do": "slow", "delay": 0})
    else:
        how, delay = ("taking", rng.uniform(0.05, 0.3)) if kind == "slow" else ("refusing", 0)
        actor.order({"do": "answer", "with": how, "delay": delay})
        await asyncio.sleep(rng.uniform(2, 3))
        if kind == "replay":
            await withdraw()
            await asyncio.sleep(1)
            await replay(actor.name, "snapshot")
            await asyncio.sleep(0.5)
        actor.order({"do": "answer", "with": "taking", "delay": 0})
