"""How long a partition is without a writer, and whether anyone else notices: restarts and kills, with figures.

Three brokers and three nodes. To every partition somebody writes all the time, through a client that does what a load
balancer with retries does: the next node at once, if one refuses. Beside that each node is read all the time. One node
after the other is restarted (SIGTERM, then started again), then some are killed. Printed is, for each, the longest time
from the first try of a write to its answer with what was met on the way, and the longest read on the nodes that were left
alone. A write that is not answered within a minute, or refused for good, ends it with an error.
"""

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cluster import Brokers, plan_nodes, share_secrets
from corpus import Corpus, Person, consent
from drive import Failure, say
from gatelog_client import Api

# A node that is paused or cut off answers nothing; one that is well answers within this.
TRY = aiohttp.ClientTimeout(total=8)
CALM = 3.0
ADDRESS = "192.0.2.1"


class Longest:
    """The longest of many times, and what was met on the way."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.times, self.met = [], Counter()

    def note(self, seconds):
        self.times.append(seconds)

    def text(self):
        ordered = sorted(self.times)
        met = ", ".join(f"{what} ×{count}" for what, count in self.met.most_common(4)) or "no refusal"
        longest, median = 1000 * ordered[-1], 1000 * ordered[len(ordered) // 2]
        return f"longest {longest:6.0f} ms, median {median:4.0f} ms of {len(ordered):5} ({met})"


@dataclass
class Known:
    person: Person
    user_id: str
    position: str


class Takeover:
    def __init__(self, options):
        self.options = options
        self.work = Path(options.work)
        self.corpus = Corpus(options.seed)
        self.rng = random.Random(options.seed)
        self.writes, self.logins = Longest(), Longest()
        self.over = False
        self.turn = 0

    async def run(self):
        options = self.options
        settings = {
            "GATELOG_LOG": "kafka",
            "GATELOG_KAFKA_BOOTSTRAP": Brokers(options.kafka).bootstrap,
            "GATELOG_KAFKA_REPLICATION": "3",
            "GATELOG_PARTITIONS": str(options.partitions),
            "GATELOG_KAFKA_SESSION_TIMEOUT": f"{options.session_timeout}s",
            "GATELOG_ARGON2_MEMORY": "7MiB",
            "GATELOG_ARGON2_ITERATIONS": "5",
        }
        api_key = "demo-" + secrets.token_urlsafe(32)
        self.nodes = plan_nodes(options.binary, self.work, api_key, settings)
        async with aiohttp.ClientSession(timeout=TRY) as session:
            self.session = session
            self.apis = [Api(session, node.url, api_key) for node in self.nodes]
            try:
                await self._measure()
            finally:
                self.over = True
                for node in self.nodes:
                    node.kill()

    async def _measure(self):
        first, *others = self.nodes
        first.start()
        await first.wait_ready(self.session)
        share_secrets(first, others)
        for node in others:
            node.start()
        for node in others:
            await node.wait_ready(self.session)
        people = await self._people()
        say(f"{len(people)} partitions, one person each; three nodes")
        tasks = [asyncio.ensure_future(work(p)) for p in people.values() for work in (self._write, self._login)]
        reads = {node.number: Longest() for node in self.nodes}
        tasks += [
            asyncio.ensure_future(self._read(api, node, reads[node.number], people))
            for api, node in zip(self.apis, self.nodes)
        ]
        await asyncio.sleep(2 * CALM)
        self._report("calm", None, reads)
        for node in self.nodes:
            await asyncio.sleep(CALM)
            self._clear(reads)
            away = await node.stop_gently()
            node.start()
            back = await node.wait_ready(self.session)
            await asyncio.sleep(2 * CALM)
            self._report(f"restart of node {node.number} (stopped in {away:.1f} s, ready in {back:.1f} s)", node, reads)
        for _ in range(self.options.kills):
            await asyncio.sleep(CALM)
            node = self.rng.choice(self.nodes)
            self._clear(reads)
            node.kill()
            await asyncio.sleep(self.options.session_timeout + 2 * CALM)
            self._report(f"SIGKILL of node {node.number} (session time-out {self.options.session_timeout} s)", node, reads)
            node.start()
            await node.wait_ready(self.session)
            await asyncio.sleep(2 * CALM)
        self.over = True
        for done in asyncio.as_completed(tasks):
            await done
        await asyncio.gather(*(node.stop_gently() for node in self.nodes))

    def _clear(self, reads):
        for longest in (self.writes, self.logins, *reads.values()):
            longest.clear()

    def _report(self, what, away, reads):
        say(what)
        say(f"  writes {self.writes.text()}")
        say(f"  logins {self.logins.text()}")
        for node in self.nodes:
            if node is not away:
                say(f"  reads on node {node.number}: {reads[node.number].text()}")

    async def _people(self):
        people, number = {}, 0
        while len(people) < self.options.partitions:
            person = self.corpus.person(number)
            number += 1
            answer = await self._retrying(self.writes, lambda api: api.register(person, key=f"r-{number}", address=ADDRESS))
            partition = int(answer.position.split(":")[1])
            if partition not in people:
                people[partition] = Known(person, answer.body["user_id"], answer.position)
        return people

    async def _retrying(self, longest, call):
        """As a load balancer: whoever refuses is passed over."""
        begun = time.monotonic()
        while True:
            self.turn += 1
            try:
                answer = await call(self.apis[self.turn % len(self.apis)])
            except aiohttp.ClientConnectorError:
                longest.met["no connection"] += 1
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                longest.met[type(error).__name__] += 1
            else:
                if answer.status < 400:
                    return answer
                longest.met[answer.problem] += 1
                if answer.status not in (429, 503):
                    raise Failure(answer.problem)
            if time.monotonic() - begun > 60:
                raise Failure(f"not answered within a minute: {longest.met}")
            await asyncio.sleep(0.02)

    async def _write(self, known):
        granted, n = True, 0
        while not self.over:
            begun = time.monotonic()
            change, key = consent(self.rng, "newsletter", granted, "en"), f"c-{known.person.number}-{n}"
            answer = await self._retrying(
                self.writes, lambda api: api.set_consent(known.user_id, change, key=key, address=ADDRESS)
            )
            self.writes.note(time.monotonic() - begun)
            granted, n = not granted, n + 1
            await asyncio.sleep(0.05)

    async def _login(self, known):
        person, n = known.person, 0
        while not self.over:
            begun = time.monotonic()
            await self._retrying(
                self.logins,
                lambda api: api.login(
                    person.email, person.password, key=f"l-{person.number}-{n}", address=ADDRESS, min_position=known.position
                ),
            )
            self.logins.note(time.monotonic() - begun)
            n += 1
            await asyncio.sleep(0.5)

    async def _read(self, api, node, longest, people):
        people = list(people.values())
        while not self.over:
            known = self.rng.choice(people)
            begun = time.monotonic()
            try:
                answer = await api.user(known.user_id, min_position=known.position, address=ADDRESS)
                if answer.status != 200:
                    longest.met[answer.problem] += 1
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                longest.met[type(error).__name__] += 1
            longest.note(time.monotonic() - begun)
            await asyncio.sleep(0.02)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program")
    parser.add_argument("--work", required=True, help="an empty folder for data and logs")
    parser.add_argument("--kafka", required=True, help="the folder of `scripts/kafka start --brokers 3`")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--session-timeout", type=int, default=6, help="seconds")
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    try:
        asyncio.run(Takeover(options).run())
    except Failure as failure:
        say(f"failed: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
