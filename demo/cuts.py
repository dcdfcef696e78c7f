"""Cuts of the network: a node from Kafka, or two nodes from each other."""

import asyncio
import time

import aiohttp

from gatelog_client import Failure
from network import BACK, BOTH, REFUSED, THERE


async def cut_from_kafka(simulation, trouble, node, how, people, away):
    """For longer than the session: the others take over what the node owned, and it must not write on when it is back."""
    trouble.down = simulation.session_timeout + simulation.rng.uniform(2, 8)
    simulation.network.cut(node.number, "kafka", how)
    writing = away(people, trouble)
    try:
        await asyncio.sleep(trouble.down)
        simulation.network.heal(node.number, "kafka")
        trouble.back = await wait_reachable(simulation.session, node)
        await writing.finish()
    finally:
        simulation.network.heal(node.number, "kafka")
        writing.cancel()


async def cut_apart(simulation, trouble, one, other, how, people, away):
    """Both have Kafka and their clients, and cannot hand commands to each other."""
    trouble.down = simulation.rng.uniform(4, 12)
    simulation.network.cut(one.number, other.number, how)
    writing = away(people, trouble)
    try:
        await asyncio.sleep(trouble.down)
        simulation.network.heal(one.number, other.number)
        await writing.finish()
    finally:
        simulation.network.heal(one.number, other.number)
        writing.cancel()


def ways(rng):
    """Every way of losing packets in random order, again and again."""
    while True:
        yield from rng.sample((BOTH, THERE, BACK, REFUSED), 4)


async def wait_reachable(session, node, limit=120.0):
    """Waits until a node says that it reaches its log; the seconds that took."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        node.check_alive()
        try:
            async with session.get(node.url + "/readyz") as answer:
                if answer.status == 200 and (await answer.json())["log_reachable"]:
                    return time.monotonic() - begun
        except (aiohttp.ClientError, asyncio.TimeoutError):
            pass
        await asyncio.sleep(0.05)
    raise Failure(f"node {node.number} did not reach Kafka within {limit:.0f} s:\n{node.log_tail()}")
