"""Brokers and nodes as processes: started, killed, paused, restarted, and watched until they are well again."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from gatelog_client import LOOPBACK, Failure, Machine, Server, free_port
from network import CLIENTS

HERE = Path(__file__).resolve().parent
KAFKA = HERE.parent / "scripts" / "kafka"
NODES = 3
PROBE_TOPIC = "demo-probe"
# How all brokers go: silent with their connections open, gone at once, or as an operator ends them.
FROZEN, KILLED, STOPPED = WAYS_AWAY = ("frozen", "killed", "stopped")


class Node(Server):
    """One of several `gatelog serve` processes. While `away` is set it is down or paused on purpose."""

    def __init__(self, number, binary, data_dir, api_key, log_file, settings, port, machine):
        super().__init__(binary, data_dir, api_key, log_file, settings, port, machine)
        self.number = number
        self.data_dir = Path(data_dir)
        self.away = False

    @property
    def pid(self):
        return self._process.pid

    def kill(self):
        self.away = True
        super().kill()

    def start(self):
        super().start()
        self.away = False

    def pause(self):
        self.away = True
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)
        self.away = False

    def check_alive(self):
        if not self.away:
            super().check_alive()

    async def stop_gently(self, limit=60.0):
        """SIGTERM, as an operator would; the seconds until the process had ended."""
        self.away = True
        begun = time.monotonic()
        self._process.terminate()
        while self._process.poll() is None:
            if time.monotonic() - begun > limit:
                self._process.kill()
                raise Failure(f"node {self.number} did not end within {limit:.0f} s of SIGTERM:\n{self.log_tail()}")
            await asyncio.sleep(0.02)
        if self._process.returncode != 0:
            raise Failure(
                f"node {self.number} ended with status {self._process.returncode} after SIGTERM:\n{self.log_tail()}"
            )
        return time.monotonic() - begun


def plan_nodes(binary, work, api_key, settings, network=None):
    """The nodes, each with its data folder, log and address. All say that they are one issuer."""
    machines = [LOOPBACK] * NODES
    if network:
        machines = [Machine(network.address(n), CLIENTS, network.enter(n)) for n in network.nodes]
    ports = [free_port() for _ in range(NODES)]
    shared = {
        **settings,
        "GATELOG_ISSUER": "http://127.0.0.1",
        "GATELOG_CLUSTER_SECRET": secrets.token_hex(32),
    }
    return [
        Node(
            number,
            binary,
            work / f"node-{number}",
            api_key,
            work / f"node-{number}.log",
            {**shared, "GATELOG_NODE_ADVERTISE": f"http://{machine.address}:{port}"},
            port,
            machine,
        )
        for number, (port, machine) in enumerate(zip(ports, machines), 1)
    ]


def share_secrets(first, others):
    """What an operator does: every node has the secrets that the first one made."""
    for node in others:
        node.data_dir.mkdir(mode=0o700)
        shutil.copytree(first.data_dir / "secrets", node.data_dir / "secrets")
        for folder, _, files in os.walk(node.data_dir):
            os.chmod(folder, 0o700)
            for name in files:
                os.chmod(Path(folder) / name, 0o600)


class Brokers:
    """The brokers that `scripts/kafka start` started in a folder."""

    def __init__(self, folder):
        self.folder = str(folder)
        facts = json.loads((Path(folder) / "facts.json").read_text())
        self.bootstrap = facts["bootstrap"]
        self.numbers = [broker["id"] for broker in facts["brokers"]]

    async def kill(self, number):
        await self._run("kill", number)

    async def restart(self, number):
        await self._run("restart", number)

    async def take_away(self, how):
        """All of them, in one of `WAYS_AWAY`."""
        if how == STOPPED:
            await self._run("stop")
        elif how == KILLED:
            await asyncio.gather(*(self._run("kill", number) for number in self.numbers))
        else:
            self._signal(signal.SIGSTOP)

    async def bring_back(self, how):
        """Until they take clients again, as far as they say so."""
        if how == FROZEN:
            self._signal(signal.SIGCONT)
        else:
            await self._run("restart")

    def _signal(self, number):
        facts = json.loads((Path(self.folder) / "facts.json").read_text())
        for broker in facts["brokers"]:
            os.kill(broker["pid"], number)

    async def wait_in_sync(self, limit=180.0):
        """Waits until every partition's every copy is in sync again; the seconds that took."""
        begun = time.monotonic()
        while True:
            behind = await asyncio.to_thread(self._behind)
            if not behind:
                return time.monotonic() - begun
            if time.monotonic() - begun > limit:
                raise Failure(f"Kafka's copies were not in sync within {limit:.0f} s: {behind[:5]}")
            await asyncio.sleep(0.5)

    def make_probe_topic(self, partitions):
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, NewTopic

        topic = NewTopic(PROBE_TOPIC, partitions, len(self.numbers), config={"min.insync.replicas": "2"})
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            admin.create_topics([topic])[PROBE_TOPIC].result(60)
        except KafkaException as error:
            raise Failure(f"the topic {PROBE_TOPIC} was not created: {error}") from None

    def _behind(self):
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            # A client of its own each time: one that lives on would remember which brokers were away.
            topics = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=10).topics
        except KafkaException as error:
            return [str(error)]
        return [
            f"{topic.topic}/{partition.id} {partition.isrs} of {partition.replicas}"
            for topic in topics.values()
            for partition in topic.partitions.values()
            if sorted(partition.isrs) != sorted(partition.replicas) or partition.leader < 0
        ] or ([] if topics else ["no topic is known"])

    async def _run(self, what, number=None):
        command = [sys.executable, str(KAFKA), what, "--dir", self.folder]
        command += [] if number is None else ["--broker", str(number)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise Failure(f"{' '.join(command)} failed: {said.decode(errors='replace').strip()[-1000:]}")


class BareWrites:
    """Writes to every partition of a topic of its own, as plainly as Kafka's client can, until told to stop.

    What this has to wait for, Gatelog cannot be faster than.
    """

    def __init__(self, bootstrap, partitions):
        from confluent_kafka import Producer

        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "retry.backoff.ms": 100, "log_level": 0}
        )
        self._partitions = range(partitions)
        self._begun = time.monotonic()
        self._over = False
        self.again = {}  # partition → seconds until the first write was acknowledged
        self._task = asyncio.ensure_future(asyncio.to_thread(self._write))

    def _write(self):
        next_at = 0.0
        while not self._over:
            if time.monotonic() >= next_at:
                for partition in self._partitions:
                    self._producer.produce(PROBE_TOPIC, b"", partition=partition, on_delivery=self._delivered)
                next_at = time.monotonic() + 0.25
            self._producer.poll(0.02)
        self._producer.purge()

    def _delivered(self, error, message):
        if error is None:
            self.again.setdefault(message.partition(), time.monotonic() - self._begun)

    async def stop(self):
        self._over = True
        await self._task
