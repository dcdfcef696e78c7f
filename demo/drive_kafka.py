"""The load of `drive.py` on three nodes and three brokers, which are killed, paused, restarted, cut off and away meanwhile.

The client is as plain as can be: each request goes to the next node, and so does each retry. Beside the load a few
people in every partition write while there is trouble, to see how long that partition is away.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import aiohttp

from cluster import NODES, WAYS_AWAY, BareWrites, Brokers, plan_nodes, share_secrets
from cuts import cut_apart, cut_from_kafka, ways
from drive import Failure, Simulation, quantile, say
from kafka_away import take_kafka_away
from network import Network
from watch import WatchedApi

NODE_KILLED, NODE_PAUSED = "node killed", "node paused"
NODES_RESTARTED, BROKER_KILLED = "nodes restarted in turn", "broker killed"
CUT_FROM_KAFKA, CUT_APART, KAFKA_AWAY = "node cut from Kafka", "nodes cut apart", "all brokers away"
KINDS = {
    "node-kill": NODE_KILLED,
    "broker-kill": BROKER_KILLED,
    "node-pause": NODE_PAUSED,
    "restart": NODES_RESTARTED,
    "cut-kafka": CUT_FROM_KAFKA,
    "cut-nodes": CUT_APART,
    "kafka-away": KAFKA_AWAY,
}
# These need a network of their own.
CUTS = ("cut-kafka", "cut-nodes")
# How long a node tries to have a write done (GATELOG_FORWARD_TIMEOUT).
FORWARD_TIMEOUT = 4
# A request that hangs, as at a paused node, is tried at the next one after this. No node that is well needs so long.
TIMEOUT = aiohttp.ClientTimeout(total=10)
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.5)
# Probes go on for so long after a trouble is over: a rebalance may follow it.
AFTERMATH = 4.0
# With no request done for so long, something does not recover.
STALLED = 120.0


@dataclass
class Trouble:
    kind: str
    who: str
    at: float  # since the load began
    down: float = 0.0  # how long the node or broker was away
    back: float = 0.0  # from its start, or the signal to go on, until ready (a broker: until all is in sync)
    again: dict = field(default_factory=dict)  # (stream, partition) → seconds until the first write begun after it
    bare: float = None  # the same of Kafka alone, for a plain producer
    slowest: float = 0.0  # the longest that a probe had to wait at any time until the trouble was over
    beside: list = field(default_factory=list)  # what was already going on


class Away:
    """Writes to every partition from the moment of a trouble until it is over, and notes how long each takes."""

    def __init__(self, simulation, people, trouble):
        self.simulation, self.trouble = simulation, trouble
        self.over = asyncio.Event()
        self.begun = time.monotonic()
        self.tasks = [
            asyncio.ensure_future(write(partition, person))
            for partition, person in sorted(people.items())
            for write in (self._consents, self._login)
        ]

    async def finish(self):
        await asyncio.sleep(AFTERMATH)
        self.over.set()
        _, waiting = await asyncio.wait(self.tasks, timeout=STALLED)
        if waiting:
            raise Failure(f"{len(waiting)} writes were not answered {STALLED:.0f} s after {self.trouble.kind}")
        for task in self.tasks:
            task.result()

    def cancel(self):
        for task in self.tasks:
            task.cancel()

    async def _consents(self, partition, person):
        while not self.over.is_set():
            begun = time.monotonic()
            await self.simulation.change_consent(person)
            self._note(("identity", partition), begun)
            await asyncio.sleep(0.5)

    async def _login(self, partition, person):
        """Only one: a password's hash costs more than all the rest."""
        begun = time.monotonic()
        await self.simulation.log_in(person)
        self._note(("activity", partition), begun)

    def _note(self, where, begun):
        now = time.monotonic()
        self.trouble.again.setdefault(where, now - self.begun)
        self.trouble.slowest = max(self.trouble.slowest, now - begun)


class ClusterSimulation(Simulation):
    timeout = TIMEOUT
    # More than one node: what is wrong once is wrong often, and the checks tell more than an early end.
    unexpected_limit = 500

    def __init__(self, options):
        self.brokers = Brokers(options.kafka)
        self.partitions = options.partitions
        self.session_timeout = options.session_timeout
        self.kinds = [KINDS[name] for name in options.kinds.split(",")]
        self.network = Network(NODES) if options.network else None
        self.seconds_away = options.away
        self.watch = None
        options.kills = 0
        super().__init__(options)
        self.plan = self._plan_troubles(options.troubles)
        self.ways_to_cut = {kind: ways(self.rng) for kind in (CUT_FROM_KAFKA, CUT_APART)}
        self.ways_away = itertools.cycle(self.rng.sample(WAYS_AWAY, len(WAYS_AWAY)))
        self.troubles = []
        self.going_on = {}  # lane → what is wrong there now
        self.probe_people = {"nodes": {}, "brokers": {}}  # lane → partition → person
        self.stops = []

    def _plan_servers(self, options):
        settings = {
            "GATELOG_LOG": "kafka",
            "GATELOG_KAFKA_BOOTSTRAP": self.brokers.bootstrap,
            "GATELOG_KAFKA_REPLICATION": "3",
            "GATELOG_PARTITIONS": str(self.partitions),
            "GATELOG_KAFKA_SESSION_TIMEOUT": f"{self.session_timeout}s",
            "GATELOG_FORWARD_TIMEOUT": f"{FORWARD_TIMEOUT}s",
        }
        nodes = plan_nodes(options.binary, self.work, self.api_key, settings, self.network)
        about = {
            "bootstrap": self.brokers.bootstrap,
            "settings": settings,
            "nodes": [{"number": node.number, "data_dir": str(node.data_dir)} for node in nodes],
        }
        (self.work / "cluster.json").write_text(json.dumps(about, indent=2) + "\n")
        return nodes

    def _plan_troubles(self, count):
        """Every kind in random order, again and again; each at a random moment of its part of the run."""
        kinds = []
        while len(kinds) < count:
            kinds += self.rng.sample(self.kinds, len(self.kinds))
        places = [self.total * (part + self.rng.uniform(0.05, 0.8)) / count for part in range(count)]
        return list(zip(places, kinds[:count]))

    # The run

    async def run(self):
        try:
            async with aiohttp.ClientSession(timeout=PROBE_TIMEOUT) as impatient:
                self.probe_apis = self._watched(impatient)
                await super().run()
        finally:
            if self.network:
                self.network.close()

    def _watched(self, session):
        return [WatchedApi(self, session, node.url, self.api_key) for node in self.servers]

    async def _start(self):
        self.apis = self._watched(self.session)
        await asyncio.to_thread(self.brokers.make_probe_topic, self.partitions)
        first, *others = self.servers
        first.start()
        seconds = [await first.wait_ready(self.session)]
        share_secrets(first, others)
        for node in others:
            node.start()
        seconds += [await node.wait_ready(self.session) for node in others]
        self.up.set()
        await self._register_probes()
        say(
            f"{len(self.servers)} nodes ready in {', '.join(f'{s:.1f}' for s in seconds)} s; "
            f"{self.total:,} requests by {self.concurrency} at a time, {len(self.plan)} troubles"
        )

    async def _register_probes(self):
        """People beyond those of the load, until each lane has one in every partition."""
        number = self.users
        while any(len(people) < self.partitions for people in self.probe_people.values()):
            people = [self.corpus.person(n) for n in range(number, number + 16)]
            number += len(people)
            await asyncio.gather(*(self._register(person) for person in people))
            for person in people:
                if person.number not in self.known:
                    raise Failure(f"a registration was answered unexpectedly: {self._unexpected_listed()}")
                partition = int(self.known[person.number]["position"].split(":")[1])
                for lane in self.probe_people.values():
                    if partition not in lane:
                        lane[partition] = person
                        break
            if number > self.users + 100 * self.partitions:
                raise Failure(f"no user of some partition in {number - self.users} registrations: {self.probe_people}")

    async def _stop(self):
        """All at once, when each has read what was written last."""
        for node in self.servers:
            await node.wait_ready(self.session)
        self.stops = await asyncio.gather(*(node.stop_gently() for node in self.servers))

    # Probes

    async def change_consent(self, person):
        await self._change_consent(person, None)

    async def log_in(self, person):
        """The access token, if there is one."""
        return await self._login(person)

    def _is_probe(self, person):
        return person.number >= self.users

    def _next_api(self, person):
        self.asked += 1
        # While every answer is watched, nobody leaves before it comes.
        impatient = self._is_probe(person) and not self.watch
        return (self.probe_apis if impatient else self.apis)[self.asked % len(self.apis)]

    def _wait(self, person, pause, retry_after):
        """Probes are impatient, or they would measure their own pauses."""
        return min(pause, 0.2) if self._is_probe(person) else super()._wait(person, pause, retry_after)

    def _note_times(self, person, kind, first_begun, begun):
        if not self._is_probe(person):
            super()._note_times(person, kind, first_begun, begun)

    # Beside the load

    def _troubles(self):
        of_brokers = (BROKER_KILLED, KAFKA_AWAY)
        self.nodes_alone = asyncio.Lock()
        lanes = {
            "nodes": [(at, kind) for at, kind in self.plan if kind not in of_brokers],
            "brokers": [(at, kind) for at, kind in self.plan if kind in of_brokers],
        }
        return [self._make_trouble(lane, plan) for lane, plan in lanes.items()] + [self._stall_watch()]

    async def _stall_watch(self):
        done, since = -1, time.monotonic()
        while not self.over:
            await asyncio.sleep(1)
            if self.done != done:
                done, since = self.done, time.monotonic()
            elif time.monotonic() - since > STALLED:
                raise Failure(f"no request was done for {STALLED:.0f} s; going on: {self.going_on or 'nothing'}")

    async def _make_trouble(self, lane, plan):
        """Nodes and brokers get into trouble independently of each other; never two brokers, never two nodes."""
        make = {
            NODE_KILLED: self._kill_node,
            NODE_PAUSED: self._pause_node,
            NODES_RESTARTED: self._restart_nodes,
            BROKER_KILLED: self._kill_broker,
            CUT_FROM_KAFKA: self._cut_from_kafka,
            CUT_APART: self._cut_apart,
            KAFKA_AWAY: self._take_kafka_away,
        }
        for at, kind in plan:
            await self._reach(at)
            await asyncio.sleep(self.rng.uniform(0, 0.3))
            # What all nodes do without Kafka is only told while all of them are well.
            alone = self.nodes_alone if lane == "nodes" or kind == KAFKA_AWAY else contextlib.nullcontext()
            async with alone:
                beside = list(self.going_on.values())
                self.going_on[lane] = kind
                try:
                    for made in await make[kind](self.probe_people[lane], beside):
                        self.troubles.append(made)
                finally:
                    del self.going_on[lane]

    def _trouble(self, kind, who, beside):
        trouble = Trouble(kind, who, time.monotonic() - self.begun, beside=beside)
        say(f"at {trouble.at:.1f} s: {kind}, {who}" + (f" ({', '.join(beside)} going on)" if beside else ""))
        return trouble

    async def _kill_node(self, people, beside):
        node = self.rng.choice(self.servers)
        trouble = self._trouble(NODE_KILLED, f"node {node.number}", beside)
        node.kill()
        away = Away(self, people, trouble)
        try:
            # Sometimes before the others have noticed, sometimes after they have taken over.
            trouble.down = self.rng.uniform(0, 2 * self.session_timeout)
            await asyncio.sleep(trouble.down)
            node.start()
            trouble.back = await node.wait_ready(self.session, 120)
            await away.finish()
        finally:
            away.cancel()
        return [trouble]

    async def _pause_node(self, people, beside):
        """A writer that does not know that it was replaced: it goes on with what it had in its hands."""
        node = self.rng.choice(self.servers)
        trouble = self._trouble(NODE_PAUSED, f"node {node.number}", beside)
        trouble.down = self.session_timeout + self.rng.uniform(2, 8)
        node.pause()
        away = Away(self, people, trouble)
        try:
            await asyncio.sleep(trouble.down)
        finally:
            node.resume()
        try:
            trouble.back = await node.wait_ready(self.session, 120)
            await away.finish()
        finally:
            away.cancel()
        return [trouble]

    async def _restart_nodes(self, people, beside):
        troubles = []
        for node in self.servers:
            trouble = self._trouble(NODES_RESTARTED, f"node {node.number}", beside)
            away = Away(self, people, trouble)
            try:
                trouble.down = await node.stop_gently()
                node.start()
                trouble.back = await node.wait_ready(self.session, 120)
                await away.finish()
            finally:
                away.cancel()
            troubles.append(trouble)
        return troubles

    async def _kill_broker(self, people, beside):
        number = self.rng.choice(self.brokers.numbers)
        trouble = self._trouble(BROKER_KILLED, f"broker {number}", beside)
        await self.brokers.kill(number)
        away = Away(self, people, trouble)
        bare = BareWrites(self.brokers.bootstrap, self.partitions)
        try:
            trouble.down = self.rng.uniform(0, 15)
            await asyncio.sleep(trouble.down)
            begun = time.monotonic()
            await self.brokers.restart(number)
            await self.brokers.wait_in_sync()
            trouble.back = time.monotonic() - begun
            await away.finish()
            if len(bare.again) == self.partitions:
                trouble.bare = max(bare.again.values())
        finally:
            away.cancel()
            await bare.stop()
        return [trouble]

    async def _cut_from_kafka(self, people, beside):
        node, how = self.rng.choice(self.servers), next(self.ways_to_cut[CUT_FROM_KAFKA])
        trouble = self._trouble(CUT_FROM_KAFKA, f"node {node.number} {how}", beside)
        await cut_from_kafka(self, trouble, node, how, people, self._away)
        return [trouble]

    async def _cut_apart(self, people, beside):
        (one, other), how = self.rng.sample(self.servers, 2), next(self.ways_to_cut[CUT_APART])
        trouble = self._trouble(CUT_APART, f"nodes {one.number} and {other.number} {how}", beside)
        await cut_apart(self, trouble, one, other, how, people, self._away)
        return [trouble]

    async def _take_kafka_away(self, people, beside):
        trouble = self._trouble(KAFKA_AWAY, next(self.ways_away), beside)
        # The nodes' lane stands still meanwhile: its people write all the time, those of this lane measure the return.
        await take_kafka_away(self, trouble, self.probe_people["nodes"], people, self._away)
        return [trouble]

    def _away(self, people, trouble):
        return Away(self, people, trouble)

    def _trouble_so_far(self):
        made = Counter(trouble.kind for trouble in self.troubles)
        now = f"; now {', '.join(self.going_on.values())}" if self.going_on else ""
        return f"{sum(made.values())} troubles over{now}"

    # What there is to say

    def summary(self):
        lines = [super().summary()]
        for kind, times in sorted(self.until_answered.items()):
            median, high = quantile(times, 0.5), quantile(times, 0.99)
            lines.append(
                f"  {kind:<9} from the first try to the answer {1000 * median:.0f} ms at the median, "
                f"{high:.1f} s at the 99th percentile, {max(times):.1f} s at most"
            )
        if self.stops:
            lines.append(f"nodes stopped in {', '.join(f'{s:.1f}' for s in self.stops)} s at the end")
        by_kind = defaultdict(list)
        for trouble in self.troubles:
            by_kind[trouble.kind].append(trouble)
        lines.append(
            "troubles; seconds: writes on every partition again (first write begun after it, identity and activity); "
            "longest wait of a write until all was over; away; back"
        )
        width = max((len(trouble.who) for trouble in self.troubles), default=0)
        for kind in KINDS.values():
            for trouble in by_kind[kind]:
                identity, activity = (
                    max((s for (name, _), s in trouble.again.items() if name == stream), default=0.0)
                    for stream in ("identity", "activity")
                )
                bare = "" if trouble.bare is None else f"  (Kafka alone {trouble.bare:.1f})"
                beside = f"  beside: {', '.join(trouble.beside)}" if trouble.beside else ""
                lines.append(
                    f"  {kind:<23} {trouble.who:<{width}} at {trouble.at:6.1f}  again {identity:5.1f} {activity:5.1f}  "
                    f"longest {trouble.slowest:5.1f}  away {trouble.down:5.1f}  back {trouble.back:5.1f}{bare}{beside}"
                )
            times = sorted(max(trouble.again.values()) for trouble in by_kind[kind])
            if times:
                lines.append(
                    f"  {kind:<23} {len(times)} times; writes on every partition again after "
                    f"{quantile(times, 0.5):.1f} s at the median, {times[-1]:.1f} s at most"
                )
        return "\n".join(lines)


async def run_until_signalled(simulation):
    # As Ctrl-C does: what was started is ended.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    await simulation.run()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program, built for release")
    parser.add_argument("--work", required=True, help="an empty folder for data, journal and logs")
    parser.add_argument("--kafka", required=True, help="the folder of `scripts/kafka start --brokers 3`")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--troubles", type=int, default=12)
    parser.add_argument("--kinds", help="which kinds of trouble, by name; all that can be made, unless given")
    parser.add_argument("--network", action="store_true", help="this is a network of its own: nodes get machines in it")
    parser.add_argument("--away", type=float, default=60, help="seconds that all brokers are away")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--session-timeout", type=int, default=6, help="seconds")
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    if options.kinds is None:
        left_out = () if options.network else CUTS
        options.kinds = ",".join(kind for kind in KINDS if kind not in left_out)
        if left_out:
            say(f"LEFT OUT, as this user may make no network of their own: {', '.join(left_out)}")
    unknown = set(options.kinds.split(",")) - KINDS.keys()
    if unknown:
        parser.error(f"no kinds of trouble: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    cuts = set(options.kinds.split(",")).intersection(CUTS)
    if cuts and not options.network:
        parser.error(f"without a network of its own there can be no {' and no '.join(sorted(cuts))}")
    try:
        simulation = ClusterSimulation(options)
        asyncio.run(run_until_signalled(simulation))
    except Failure as failure:
        say(f"failed: {failure}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted")
        return 130
    say(simulation.summary())
    return 1 if simulation.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
