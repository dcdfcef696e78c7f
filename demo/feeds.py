"""Feeds under trouble: many users, receivers that follow at once, and changes while everybody is killed.

A webhook's receiver, an SSE client, a client that asks for pages, whoever stands in Segment's place and, where the log is in
Kafka, a consumer of the feed's topic follow one feed, each a process with a disk of its own. First the webhook's receiver is
slow, so that it lags by all it has to be told, and some users withdraw: measured is when it hears of it. Then users
withdraw, are erased, disabled, changed, and come anew, while receivers are killed, refuse, are slow and lose their disks,
and the node is killed. At the end three receivers with empty disks replay everything from the beginning. What was answered
to whom is left in `books.json`; `feeds_check.py` holds the receivers' recordings against
it.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import aiohttp

import feeds_troubles
from drive import TIMEOUT, TRY_AGAIN, address_of, first_failure_or_all, say
from feeds_api import FEED, FIELDS, FeedsApi, load, move
from feeds_books import PLANS, Books, Subject, newsletter, plan_steps
from feeds_cast import PUSHED, Actor, differences
from feeds_segment import TOKEN, WRITE_KEY
from gatelog_client import Failure, Server, free_port

CONCURRENCY = 16
CHANGES_AT_ONCE = 32
MEASURED = 20
# Who withdraws while the webhook's receiver refuses and is to be told everything anew.
SPARED = 3
SETTLE = 240
AGAIN = 10_000_000
# Webhooks may reach this machine.
SETTINGS = {"GATELOG_WEBHOOK_NETWORKS": "127.0.0.0/8", "GATELOG_WEBHOOK_PLAIN_HTTP": "true"}
SEGMENT = {"write_key": {"write_key": WRITE_KEY, "public_api": TOKEN}}


def on_kafka(bootstrap):
    """Settings of a node whose log is there, on one broker."""
    return {
        "GATELOG_LOG": "kafka",
        "GATELOG_KAFKA_BOOTSTRAP": bootstrap,
        "GATELOG_KAFKA_TOPIC_PREFIX": "demo.",
        "GATELOG_KAFKA_REPLICATION": "1",
        "GATELOG_KAFKA_MIN_INSYNC": "1",
        "GATELOG_KAFKA_SESSION_TIMEOUT": "6s",
        # As many as the embedded log has whose records are copied.
        "GATELOG_PARTITIONS": "8",
    }


class Demo:
    def __init__(self, options):
        self.options = options
        self.work = Path(options.work)
        self.rng = random.Random(options.seed)
        self.books = Books(options.seed, options.users)
        self.api_key = "demo-" + secrets.token_urlsafe(32)
        self.kafka = on_kafka(options.kafka) if options.kafka else {}
        settings = {**SETTINGS, **self.kafka}
        self.server = Server(options.binary, self.work / "data", self.api_key, self.work / "server.log", settings)
        self.seconds = options.seconds or min(max(options.users / 400, 30), 240)
        self.counts = Counter()
        self.unexpected = Counter()
        self.measured = []
        self.locks = {}
        self.done = 0
        self.troubles_done = 0

    async def run(self):
        await self._prepare()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as self.session:
            self.api = FeedsApi(self.session, self.server.url, self.api_key)
            self.up = asyncio.Event()
            self.actors = {}
            watch = asyncio.ensure_future(self._watch())
            try:
                await first_failure_or_all([acts := asyncio.ensure_future(self._acts())], [acts, watch])
            finally:
                watch.cancel()
                for actor in self.actors.values():
                    await actor.kill()
                self.server.kill()

    async def _acts(self):
        self.server.start()
        say(f"server ready in {await self.server.wait_ready(self.session):.2f} s")
        self.up.set()
        await self._everybody_follows()
        await self._measure_backlog()
        await self._change_under_trouble()
        settled = await self._settle("after all troubles", 3)
        await self._write_report()
        replayed = await self._replay_from_the_beginning()
        self._write_books(settled, replayed)
        self.server.stop()

    # The acts

    async def _prepare(self):
        rows = self.work / "users.ndjson"
        with rows.open("w", encoding="utf-8") as file:
            for row in self.books.import_rows():
                file.write(row + "\n")
        begun = time.monotonic()
        first = self.work / ("embedded" if self.kafka else "data")
        taken = load(self.options.binary, first, rows)
        if self.kafka:
            move(self.options.binary, first, self.work / "data", self.kafka)
        rows.unlink()
        say(
            f"{taken:,} users imported in {time.monotonic() - begun:.1f} s, {len(self.books.expected()):,} of them with the "
            f"consent to the newsletter"
        )
        if taken != self.options.users:
            raise Failure(f"{taken} users were imported, not {self.options.users}")

    async def _everybody_follows(self):
        await self._ask(self.api.define_feed)
        # Its own key, good for reading this feed and nothing else.
        answer = await self._ask(self.api.create_key, "demo", [f"feeds:read:{FEED}"])
        self.reader = {"url": self.server.url, "feed": FEED, "key": answer.body["api_key"]}
        visible = len(self.books.expected())
        # At small sizes slower, for there to be a backlog at all.
        self.delay = 0.05 if visible >= 2000 else 0.15
        port = free_port()
        webhook = await self._play("webhook", "webhook", {"port": port, "delay": self.delay})
        for kind in ("sse", "pages"):
            await self._play(kind, kind, {**self.reader, "from": "snapshot"})
        hook = {"url": f"http://127.0.0.1:{port}/", "concurrency": CONCURRENCY}
        answer = await self._ask(self.api.set_webhook, "webhook", hook)
        webhook.order({"do": "verify", "secret": answer.body["secret"]})
        webhook.known = {"port": port, "secret": answer.body["secret"]}
        await self._segment_follows(free_port())
        if self.kafka:
            await self._ask(self.api.write_topic)
            topic = (await self._ask(self.api.feed)).body["topic"]["name"]
            await self._play("topic", "topic", {"bootstrap": self.options.kafka, "topic": topic})

    async def _segment_follows(self, port):
        url = f"http://127.0.0.1:{port}"
        mapping = {name: name for name in FIELDS}
        connector = {"vendor": "segment", "base_url": url, "regulations_url": url, "mapping": mapping}
        await self._play("segment", "segment", {"port": port})
        await self._ask(self.api.set_webhook, "segment", {"connector": connector, "credential": SEGMENT})

    async def _play(self, name, kind, known):
        actor = Actor(name, kind, self.work, known)
        await actor.start()
        self.actors[name] = actor
        return actor

    async def _measure_backlog(self):
        """Withdraws some while the webhook's receiver, who is well but slow, has everyone's state yet to hear."""
        backlog = len(self.books.expected()) * self.delay / CONCURRENCY
        visible = [s for s in self.books.subjects.values() if s.is_visible]
        chosen = self.rng.sample(visible, min(MEASURED, len(visible) // 4))
        for subject in chosen:
            await self._find(subject)
        say(f"the webhook's receiver takes {1000 * self.delay:.0f} ms a record: {len(visible):,} take it {backlog:.0f} s")
        for subject in chosen:
            await self._withdraw(subject)
            self.measured.append({"user_id": subject.user_id, "answered": subject.closed[-1]["answered"]})
            await asyncio.sleep(min(0.5, backlog / 2 / len(chosen)))
        await asyncio.sleep(3)
        self.actors["webhook"].order({"do": "answer", "with": "taking", "delay": 0})
        await self._settle("after the backlog", 0)

    async def _change_under_trouble(self):
        consenting = [s.number for s in self.books.subjects.values() if s.is_visible]
        self.spared = self.rng.sample(consenting, SPARED * self.options.rounds)
        steps = plan_steps(self.options.users, set(consenting), set(self.spared), self.options.leave, self.rng)
        troubles = feeds_troubles.plan(self.rng, list(self.actors), self.options.rounds, self.seconds, self.options.kinds)
        say(f"{len(steps):,} changes and {len(troubles)} troubles in {self.seconds:.0f} s")
        self.begun, self.total, self.troubles = time.monotonic(), len(steps), len(troubles)
        awaited = [asyncio.ensure_future(self._change(steps))]
        awaited += [
            asyncio.ensure_future(self._trouble([t for t in troubles if t[1] == name])) for name in [*self.actors, "node"]
        ]
        report = asyncio.ensure_future(self._report())
        try:
            await first_failure_or_all(awaited, [*awaited, report])
        finally:
            for task in [*awaited, report]:
                task.cancel()
        say(f"{self.done:,} changes in {time.monotonic() - self.begun:.0f} s: {listed(self.counts)}")

    async def _settle(self, when, calm):
        """Waits until every receiver holds what it must, or for too long; and looks again after some calm seconds."""
        begun = time.monotonic()
        waiting = set(self.actors)
        while waiting and time.monotonic() - begun < SETTLE:
            waiting = {name for name in waiting if await self._wrong(self.actors[name]) != []}
            if waiting:
                await asyncio.sleep(1)
        seconds = time.monotonic() - begun
        await asyncio.sleep(calm)
        wrong = {name: await self._wrong(actor) for name, actor in self.actors.items()}
        if all(lines == [] for lines in wrong.values()):
            say(f"{when} all receivers hold what they must, within {seconds:.0f} s")
        else:
            for name, lines in wrong.items():
                if lines:
                    say(f"{when} {name} holds {len(lines)} users not as it must, after {seconds:.0f} s")
        return wrong

    async def _wrong(self, actor):
        holdings = await actor.holdings()
        return None if holdings is None else differences(holdings, self.books.expected())

    async def _write_report(self):
        """The auditor's report, as the server gives it."""
        lines, after = [], None
        while True:
            page = (await self._ask(self.api.withdrawals, after)).body
            lines += page["withdrawals"]
            after = page["next"]
            if not after:
                break
        (self.work / "report.json").write_text(json.dumps(lines), encoding="utf-8")
        for name in PUSHED:
            dead = (await self._ask(self.api.dead_letters, name)).body["dead_letters"]
            if dead:
                self.unexpected[f"{name}: {len(dead)} dead letters, such as {dead[0]}"] += 1

    async def _replay_from_the_beginning(self):
        """Everything again, to receivers with empty disks."""
        for actor in self.actors.values():
            await actor.kill()
        known = self.actors["webhook"].known
        self.actors = {}
        await self._play("webhook-replay", "webhook", known)
        for kind in ("sse", "pages"):
            await self._play(f"{kind}-replay", kind, {**self.reader, "from": "beginning"})
        await self._replay("webhook", "beginning")
        return await self._settle("after a replay from the beginning", 3)

    async def _replay(self, name, start):
        await self._ask(self.api.replay_webhook, name, start)
        self.counts[f"replay from {start}"] += 1

    def _write_books(self, settled, replayed):
        subjects = [
            {
                "user_id": s.user_id,
                "emails": sorted(s.emails),
                "visible": s.is_visible,
                "ever_visible": s.was_ever_visible,
                "fields": s.fields(),
                "opened": s.opened,
                "closed": s.closed,
            }
            for s in self.books.subjects.values()
        ]
        books = {
            "fields": FIELDS,
            "receivers": list(settled),
            "subjects": subjects,
            "measured": self.measured,
            "wrong": {**settled, **replayed},
            "unexpected": [f"{what} ({count} times)" for what, count in self.unexpected.items()],
        }
        (self.work / "books.json").write_text(json.dumps(books, ensure_ascii=False), encoding="utf-8")

    # What users do

    async def _change(self, steps):
        """Begins each step at its time; those of one user come one after the other."""
        at_once = asyncio.Semaphore(CHANGES_AT_ONCE)
        running = set()

        async def run(step, turn, before):
            try:
                if before:
                    await before
                await self._step(step)
                self.done += 1
            finally:
                turn.set_result(None)
                at_once.release()

        latest = {}
        for place, step in steps:
            await asyncio.sleep(max(0, self.begun + place * self.seconds - time.monotonic()))
            await at_once.acquire()
            turn = asyncio.get_running_loop().create_future()
            running.add(asyncio.ensure_future(run(step, turn, latest.get(step.number))))
            latest[step.number] = turn
            for task in [task for task in running if task.done()]:
                task.result()
                running.remove(task)
        for task in running:
            await task

    async def _step(self, step):
        if step.kind == "register":
            return await self._register(step.number, self.books.corpus.person(step.number), self.rng.random() < 0.5)
        subject = self.books.subjects[step.number]
        if step.kind == "register again":
            if not subject.exists:
                person = replace(self.books.corpus.person(step.number), email=subject.email)
                await self._register(AGAIN + step.number, person, True)
            return None
        await self._find(subject)
        if not subject.exists or (not subject.active and step.kind not in ("erase", "enable")):
            return None
        steps = {
            "withdraw": self._withdraw,
            "grant": self._grant,
            "erase": self._erase,
            "disable": self._disable,
            "enable": self._enable,
            "profile": self._change_profile,
            "email": self._change_email,
            "upgrade": self._upgrade,
        }
        return await steps[step.kind](subject)

    async def _find(self, subject):
        if subject.user_id is None:
            answer = await self._ask(self.api.find, subject.email)
            subject.user_id = answer.body["users"][0]["user_id"]

    async def _register(self, number, person, granted):
        others = tuple(c for c in person.consents if c["purpose"] != "newsletter")
        person = replace(person, consents=(*others, newsletter(granted)))
        sent = time.time()
        answer = await self._send("register", self.api.register, person, status=201, number=number)
        if answer:
            self.books.subjects[number] = subject = Subject(
                number=number,
                email=person.email,
                given_name=person.given_name,
                locale=person.locale,
                plan=person.plan,
                granted=granted,
                user_id=answer.body["user_id"],
            )
            if granted:
                subject.opened.append(sent)

    async def _withdraw(self, subject):
        if subject.granted:
            call = self.api.set_consent, subject.user_id, newsletter(False)
            await self._close(subject, "withdraw", *call, granted=False)

    async def _withdraw_some(self):
        for number in [self.spared.pop() for _ in range(SPARED)]:
            subject = self.books.subjects[number]
            await self._find(subject)
            await self._withdraw(subject)

    async def _disable(self, subject):
        await self._close(subject, "disable", self.api.set_status, subject.user_id, "disabled", active=False)

    async def _erase(self, subject):
        await self._close(subject, "erase", self.api.erase, subject.user_id, exists=False)

    async def _close(self, subject, kind, call, *arguments, **changes):
        """What ends that the feed may see them, if it may."""
        answer = await self._send(kind, call, *arguments, number=subject.number)
        if answer:
            if subject.is_visible:
                position = answer.body.get("position") or answer.position or None
                subject.closed.append({"answered": time.time(), "kind": kind, "position": position})
            vars(subject).update(changes)

    async def _grant(self, subject):
        if not subject.granted:
            call = self.api.set_consent, subject.user_id, newsletter(True)
            await self._open(subject, "grant", *call, granted=True)

    async def _enable(self, subject):
        if not subject.active:
            await self._open(subject, "enable", self.api.set_status, subject.user_id, "active", active=True)

    async def _open(self, subject, kind, call, *arguments, **changes):
        """What lets the feed see them, if nothing else is in the way."""
        sent = time.time()
        subject.opened.append(sent)
        if await self._send(kind, call, *arguments, number=subject.number):
            vars(subject).update(changes)
        if not subject.is_visible:
            subject.opened.remove(sent)

    async def _change_profile(self, subject):
        other = self.books.corpus.person(self.rng.randrange(self.options.users))
        name, value = self.rng.choice((("given_name", other.given_name), ("given_name", None), ("locale", other.locale)))
        if await self._send("profile", self.api.change_profile, subject.user_id, {name: value}, number=subject.number):
            setattr(subject, name, value)

    async def _change_email(self, subject):
        email = f"New.{subject.number}@neu{subject.number}.example"
        subject.emails.add(email)
        if await self._send("email", self.api.change_email, subject.user_id, email, number=subject.number):
            subject.email = email

    async def _upgrade(self, subject):
        plan = next((p for p in PLANS if PLANS.index(p) > PLANS.index(subject.plan)), None)
        if plan and await self._send("upgrade", self.api.set_plan, subject.user_id, plan, number=subject.number):
            subject.plan = plan

    # Sending

    async def _send(self, kind, call, *arguments, number, status=200):
        """Sends one change until it is answered; the answer, if it is the one that must come."""
        named = {"key": str(uuid.uuid4()), "address": address_of(number)}
        tries, answer = await self._until_answered(call, *arguments, **named)
        # Of a user whose erasure was not answered nobody knows anything any more.
        if answer.status == status or (kind == "erase" and tries > 1 and answer.status == 404):
            self.counts[kind] += 1
            return answer
        self.unexpected[f"{kind}: {answer.problem}"] += 1
        if sum(self.unexpected.values()) > 25:
            raise Failure("too many unexpected answers:\n" + "\n".join(self.unexpected))
        return None

    async def _ask(self, call, *arguments):
        """What the operator asks, and needs the answer to."""
        _, answer = await self._until_answered(call, *arguments)
        if answer.status >= 300:
            raise Failure(answer.problem)
        return answer

    async def _until_answered(self, call, *arguments, **named):
        tries, pause = 0, 0.02
        while True:
            await self.up.wait()
            tries += 1
            try:
                answer = await call(*arguments, **named)
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError):
                self.counts["lost, sent again"] += 1
            else:
                if answer.status not in TRY_AGAIN and not (answer.status == 409 and answer.retry_after):
                    return tries, answer
                self.counts[f"answered {answer.status}, sent again"] += 1
                pause = max(pause, min(answer.retry_after, 5))
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, 1)

    # Beside the load

    async def _trouble(self, troubles):
        for at, name, kind in troubles:
            await asyncio.sleep(max(0, self.begun + at - time.monotonic()))
            if name == "node":
                self.server.kill()
                self.up.clear()
                self.server.start()
                await self.server.wait_ready(self.session)
                self.up.set()
            else:
                await feeds_troubles.make(kind, self.actors[name], self._replay, self._withdraw_some, self.rng)
            self.counts[f"{name} {kind}"] += 1
            self.troubles_done += 1

    async def _watch(self):
        """Notices if anybody ends whom nobody killed."""
        while True:
            await asyncio.sleep(0.2)
            if self.up.is_set():
                self.server.check_alive()
            for actor in self.actors.values():
                actor.check_alive()

    async def _report(self):
        while True:
            await asyncio.sleep(10)
            say(f"{self.done:,} of {self.total:,} changes, {self.troubles_done} of {self.troubles} troubles")


def listed(counts):
    return ", ".join(f"{count:,} × {what}" for what, count in sorted(counts.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program, built for release")
    parser.add_argument("--work", required=True, help="an empty folder for data, recordings and logs")
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--kafka", help="brokers, for the log to be there; it is embedded if this is not given")
    parser.add_argument("--leave", type=float, default=0.14, help="share of those who consent that withdraw [%(default)s]")
    parser.add_argument("--seconds", type=float, help="how long users change [by the number of users]")
    parser.add_argument("--rounds", type=int, default=1, help="how often each trouble is made on each receiver")
    parser.add_argument("--kinds", default=",".join(feeds_troubles.all_kinds()), help="which troubles, with commas")
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    options.kinds = set(options.kinds.split(","))
    unknown = options.kinds - set(feeds_troubles.all_kinds())
    if unknown or options.users < 200:
        parser.error(f"no such troubles: {unknown}" if unknown else "it takes 200 users to have some of each kind")
    try:
        asyncio.run(Demo(options).run())
    except Failure as failure:
        say(f"failed: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
