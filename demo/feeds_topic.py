"""A consumer of a feed's Kafka topic: `confluent-kafka`, CloudEvents' binary mode, and nothing of ours."""

import asyncio
import json
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from feeds_receiver_base import Receiver

AT_ONCE = 500
WAIT = 0.2


class Topic(Receiver):
    """Goes on from the offsets on its disk, or reads everything there is."""

    def __init__(self, disk, known):
        super().__init__(disk, known)
        self._drop = False

    def order(self, order):
        super().order(order)
        self._drop |= order["do"] == "drop"

    async def run(self):
        print("following", flush=True)
        while True:
            self._drop = False
            consumer = await asyncio.to_thread(self._connect)
            while not self._drop:
                messages = await asyncio.to_thread(consumer.consume, AT_ONCE, WAIT)
                await self._take([m for m in messages if not m.error()])
            await asyncio.to_thread(consumer.close)

    def _connect(self):
        consumer = Consumer(
            {
                "bootstrap.servers": self.known["bootstrap"],
                "group.id": "demo-feeds",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
            }
        )
        topic = self.known["topic"]
        while not (partitions := consumer.list_topics(topic, timeout=30).topics[topic].partitions):
            time.sleep(WAIT)
        self.offsets = {int(p): offset for p, offset in json.loads(self.disk.cursor or "{}").items()}
        consumer.assign([TopicPartition(topic, p, self.offsets.get(p, OFFSET_BEGINNING)) for p in partitions])
        return consumer

    async def _take(self, messages):
        if not messages:
            return
        self.disk.take([event(message) for message in messages], time.time())
        self.offsets.update({message.partition(): message.offset() + 1 for message in messages})
        self.disk.keep_cursor(json.dumps(self.offsets))
        await asyncio.sleep(self.delay * len(messages))


def event(message):
    """A message in the form that the other shapes have. A tombstone follows on the withdrawal, with its headers."""
    headers = {name: value.decode() for name, value in message.headers()}
    value = message.value()
    found = {name.removeprefix("ce_"): text for name, text in headers.items() if name.startswith("ce_")}
    assert found["subject"] == message.key().decode(), "keyed by the subject"
    return {**found, "data": {"reason": "tombstone"} if value is None else json.loads(value)}
