"""All brokers away for a while, under load: what is refused, how soon, what goes on, and when all is well again."""

import asyncio
import time
from types import SimpleNamespace

import aiohttp

from cluster import BareWrites
from drive import quantile, say
from gatelog_client import Failure
from watch import Watch, statuses, times_by_kind

# The others are refused where too many passwords are hashed, too.
UNHASHED = ("consent", "plan")
WRITES = ("register", "login", *UNHASHED)
READS = ("read a user", "check a token", "JWKS")
# Between two reads of one kind on one node.
PAUSE = 0.1
READ_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Readers:
    """On each node, all the time: a user by an API key, the same by an access token, and the keys for checking tokens."""

    def __init__(self, simulation, watch, user_id, token):
        self._watch = watch
        self._session = aiohttp.ClientSession(timeout=READ_TIMEOUT)
        by_key = {"Authorization": f"Bearer {simulation.api_key}"}
        by_token = {"Authorization": f"Bearer {token}"}
        asked = (
            ("read a user", f"/v1/users/{user_id}", by_key),
            ("check a token", f"/v1/users/{user_id}", by_token),
            ("JWKS", "/.well-known/jwks.json", {}),
        )
        self._tasks = [
            asyncio.ensure_future(self._read(node.url + path, kind, headers))
            for node in simulation.servers
            for kind, path, headers in asked
        ]

    async def _read(self, url, kind, headers):
        while True:
            begun, status = time.monotonic(), None
            try:
                async with self._session.get(url, headers=headers) as answer:
                    await answer.read()
                    status = answer.status
            except (aiohttp.ClientError, asyncio.TimeoutError):
                pass
            self._watch.note(kind, begun, status)
            await asyncio.sleep(PAUSE)

    async def stop(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()


async def take_kafka_away(simulation, trouble, meanwhile, after, away):
    """`away(people, trouble)` begins writes to every partition: by people who go on all the time, and by others from the
    return on, by which it is measured."""
    person = next(iter(after.values()))
    token = await simulation.log_in(person)
    simulation.watch = watch = Watch()
    readers = Readers(simulation, watch, simulation.known[person.number]["id"], token)
    going_on = away(meanwhile, SimpleNamespace(kind=trouble.kind, again={}, slowest=0.0))
    begun = time.monotonic()
    try:
        await simulation.brokers.take_away(trouble.who)
        await asyncio.sleep(max(simulation.seconds_away - (time.monotonic() - begun), 0))
        await readers.stop()
        trouble.down = time.monotonic() - begun
    finally:
        await readers.stop()
        await simulation.brokers.bring_back(trouble.who)
    watch.end()
    writing, bare = away(after, trouble), BareWrites(simulation.brokers.bootstrap, simulation.partitions)
    try:
        trouble.back = await simulation.brokers.wait_in_sync()
        await asyncio.gather(writing.finish(), going_on.finish())
        if len(bare.again) == simulation.partitions:
            trouble.bare = max(bare.again.values())
    finally:
        writing.cancel()
        going_on.cancel()
        await bare.stop()
        simulation.watch = None
    judge(simulation, trouble, watch)


def judge(simulation, trouble, watch):
    writes, reads = watch.of(WRITES), watch.of(READS)
    first = watch.first_refusal(UNHASHED)
    failed = [seen for seen in reads if seen.status != 200]
    unanswered = [seen for seen in writes if seen.status is None]
    if not reads or first is None:
        raise Failure(f"Kafka was {trouble.who}, and nothing was read, or no write was refused: nothing was shown")
    for figure in (
        f"away for {trouble.down:.0f} s, {trouble.who}: the first 503 after {first:.1f} s",
        f"writes: {statuses(writes)}; longest {max((s.seconds for s in writes), default=0):.1f} s",
        f"reads: {len(reads) - len(failed):,} of {len(reads):,} answered 200, "
        f"{1000 * quantile([s.seconds for s in reads], 0.99):.0f} ms at the 99th percentile",
        *(f"  {line}" for line in times_by_kind(writes + reads)),
        f"every partition writes again {max(trouble.again.values()):.1f} s after the return"
        + ("" if trouble.bare is None else f" (Kafka alone {trouble.bare:.1f} s)"),
    ):
        say(figure)
    for what, wrong in (
        ("reads without a 200 while Kafka was away", failed),
        (f"writes not answered within {simulation.timeout.total} s while Kafka was away", unanswered),
    ):
        if wrong:
            simulation.unexpected[f"{what}: {statuses(wrong)}"] += len(wrong)
