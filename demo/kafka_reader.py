"""Reads Gatelog's log from Kafka as anybody could: with `confluent-kafka`, the headers and one rule.

The rule. Who may write a partition changes, and a writer that was paused or cut off does not know at once that it has
a successor. So whoever begins to write a partition first appends a *claim*. The claim's offset is the *epoch* of what
follows. Each commit says under which epoch it was written, and its number in it: 0, 1, 2 … Then

    a commit counts if its epoch is that of the newest claim before it and its number is the next one.

All else is void, for every reader and for ever: what an earlier owner still wrote (stale), what was written twice
(copy), and what follows a commit that never arrived (beyond a hole). Where Kafka's retention has cut the beginning off, and
the claim with it, the first commit that is left stands for that claim.
"""

import json
from collections import Counter
from dataclasses import dataclass

from gatelog_client import Event, Failure

STREAMS = ("identity", "activity")

# What a record is.
CLAIM, COMMIT, STALE, COPY, BEYOND = "claim", "commit", "void: stale", "void: copy", "void: beyond a hole"


@dataclass(frozen=True)
class Record:
    """One record of Kafka, with the headers as text."""

    stream: str
    partition: int
    offset: int
    headers: dict
    value: bytes

    @property
    def position(self):
        return f"{self.stream}:{self.partition}:{self.offset}"


class Partition:
    """The rule, for the records of one partition in their order."""

    def __init__(self):
        self.epoch = None
        self.next = 0
        self.read = 0

    def judge(self, record):
        kind = header(record, "gl_kind")
        epoch, number = int(header(record, "gl_epoch")), int(header(record, "gl_seq"))
        cut, self.read = range(self.read, record.offset), record.offset + 1
        if kind == "commit" and epoch in cut:
            self.epoch, self.next = epoch, number
        if kind == "claim":
            self.epoch, self.next = record.offset, 0
            return CLAIM
        if kind != "commit":
            raise Failure(f"{record.position}: a record of the kind {kind!r}")
        if epoch != self.epoch:
            return STALE
        if number != self.next:
            return COPY if number < self.next else BEYOND
        self.next += 1
        return COMMIT


def header(record, name):
    try:
        return record.headers[name]
    except KeyError:
        raise Failure(f"{record.position}: the header {name} is missing") from None


class Reading:
    """What a pass over the records found."""

    def __init__(self, records):
        """`records` come in the order of each partition; how partitions are interleaved does not matter."""
        self.kinds = Counter()
        self.events = []
        self.wrong = []  # what no reader may ever find
        partitions, last, ids = {}, {}, {}
        for record in records:
            place = (record.stream, record.partition)
            if record.offset <= last.get(place, -1):
                raise Failure(f"{record.position} was read after offset {last[place]}")
            last[place] = record.offset
            kind = partitions.setdefault(place, Partition()).judge(record)
            self.kinds[kind] += 1
            if kind != COMMIT:
                continue
            events = events_of(record)
            self.events += events
            commit_id = header(record, "gl_commit")
            if ids.setdefault((record.stream, commit_id), record.position) != record.position:
                self.wrong.append(f"{record.position}: commit {commit_id} is at {ids[record.stream, commit_id]} already")
            if int(header(record, "gl_version")) != events[-1].sequence:
                self.wrong.append(
                    f"{record.position}: gl_version is {header(record, 'gl_version')}, "
                    f"the last event's sequence {events[-1].sequence}"
                )

    def summary(self):
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))


def events_of(record):
    """A commit's events: a batch of CloudEvents in JSON. The position is where the record lies."""
    try:
        batch = json.loads(record.value)
        events = [Event.from_line({**event, "position": record.position}) for event in batch]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{record.position}: the value is no batch of CloudEvents: {error!r}") from None
    if not events:
        raise Failure(f"{record.position}: the batch is empty")
    return events


def read(bootstrap, prefix="gatelog."):
    """Yields every record of both streams that is there when the call begins."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

    streams = {prefix + stream: stream for stream in STREAMS}
    # The group is only a name: nothing is joined, nothing committed.
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{prefix}demo-reader",
            "enable.auto.commit": False,
            "check.crcs": True,
            "log_level": 2,
        }
    )
    try:
        ends = {}
        for topic in streams:
            about = consumer.list_topics(topic, timeout=30).topics[topic]
            if about.error:
                raise Failure(f"the topic {topic} cannot be read: {about.error}")
            for partition in about.partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
                if low > 0:
                    raise Failure(f"the partition {partition} of {topic} begins at {low}: its beginning is gone")
                if high > 0:
                    ends[topic, partition] = high
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in ends])
        while ends:
            messages = consumer.consume(1000, timeout=30)
            if not messages:
                raise Failure(f"nothing came within 30 s, though partitions are not at their ends yet: {ends}")
            for message in messages:
                if message.error():
                    raise Failure(f"reading failed: {message.error()}")
                place = (message.topic(), message.partition())
                if message.offset() < ends.get(place, 0):
                    yield as_record(streams[message.topic()], message)
                if message.offset() + 1 >= ends.get(place, 0):
                    ends.pop(place, None)
    except KafkaException as error:
        raise Failure(f"Kafka cannot be read: {error}") from None
    finally:
        consumer.close()


def as_record(stream, message):
    headers = message.headers() or []
    names = [name for name, _ in headers]
    record = Record(
        stream=stream,
        partition=message.partition(),
        offset=message.offset(),
        headers={name: (value or b"").decode("utf-8", "replace") for name, value in headers},
        value=message.value() or b"",
    )
    if len(set(names)) != len(names):
        raise Failure(f"{record.position}: a header is given twice: {names}")
    return record
