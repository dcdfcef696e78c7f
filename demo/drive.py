"""The load: registers people, logs them in, changes consents and plans, while the server is killed again and again.

Every write carries an Idempotency-Key and is sent again with the same key until it is answered. Each answer that
acknowledges a write becomes one line of `journal.ndjson`, which `check.py` holds against the log afterwards.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path

import aiohttp

from corpus import PURPOSES, Corpus, consent
from gatelog_client import Api, Failure, Server

PLANS = ("free", "pro", "enterprise")
WRONG_PASSWORDS = 0.05
SAMPLES = 100
# Not reached yet, too many, too busy. So is 409 with Retry-After: the first request with this key is still worked on.
TRY_AGAIN = (412, 429, 503)
# A request whose answer takes longer is sent again, with its key.
TIMEOUT = aiohttp.ClientTimeout(total=60)


class Simulation:
    timeout = TIMEOUT
    unexpected_limit = 25

    def __init__(self, options):
        self.rng = random.Random(options.seed)
        self.corpus = Corpus(options.seed)
        self.users = options.users
        self.kills = options.kills
        self.concurrency = options.concurrency
        self.work = Path(options.work)
        self.api_key = "demo-" + secrets.token_urlsafe(32)
        self.servers = self._plan_servers(options)
        self.journal = (self.work / "journal.ndjson").open("w", encoding="utf-8")
        self.visits = self._plan_visits()
        self.total = sum(len(steps) for _, _, steps in self.visits)
        self.sampled = self._plan_samples()
        self.done = 0
        self.over = False
        self.counts = Counter()
        self.unexpected = Counter()
        self.latency = defaultdict(list)  # of the try that was answered
        self.until_answered = defaultdict(list)  # from the first try on
        self.apis = []
        self.asked = 0
        self.restarts = []
        self.known = {}  # user number → what is known of the user after registration
        self.first_visit = {}  # user number → set when the first visit is over

    def _plan_servers(self, options):
        return [Server(options.binary, self.work / "data", self.api_key, self.work / "server.log")]

    # Who does what, in which order

    def _plan_visits(self):
        """Two visits a person: registering and some more; and the rest, later, among others' visits."""
        with_plan = set(self.rng.sample(range(self.users), self.users // 4))
        mistyped = int(2 * self.users * WRONG_PASSWORDS)
        logins = ["mistyped login"] * mistyped + ["login"] * (2 * self.users - mistyped)
        self.rng.shuffle(logins)
        visits = []
        for number in range(self.users):
            steps = [logins.pop(), logins.pop(), "consent"] + ["plan"] * (number in with_plan)
            self.rng.shuffle(steps)
            cut = self.rng.randint(0, len(steps) - 1)
            later = number + self.concurrency + self.rng.uniform(0, self.users / 4)
            visits.append((number, number, ["register"] + steps[:cut]))
            visits.append((later, number, steps[cut:]))
        return sorted(visits, key=lambda visit: visit[:2])

    def _plan_samples(self):
        """Which people's state is recorded, each after which of their steps."""
        steps_of = Counter()
        for _, number, steps in self.visits:
            steps_of[number] += len(steps)
        chosen = self.rng.sample(range(self.users), min(SAMPLES, self.users))
        return {number: self.rng.randrange(steps_of[number]) for number in chosen}

    # The run

    async def run(self):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=self.timeout) as self.session:
            self.apis = [Api(self.session, server.url, self.api_key) for server in self.servers]
            self.up = asyncio.Event()
            self.first_visit = {number: asyncio.Event() for number in range(self.users)}
            try:
                await self._start()
                self.up.set()
                await self._drive()
                await self._stop()
            finally:
                self.journal.close()
                for server in self.servers:
                    server.kill()

    async def _start(self):
        self.servers[0].start()
        first_start = await self.servers[0].wait_ready(self.session)
        say(f"server ready in {first_start:.2f} s; {self.total:,} requests by {self.concurrency} at a time")

    async def _stop(self):
        self.servers[0].stop()

    async def _drive(self):
        self.begun = time.monotonic()
        queue = iter(self.visits)
        workers = [asyncio.ensure_future(self._work(queue)) for _ in range(self.concurrency)]
        troubles = [asyncio.ensure_future(trouble) for trouble in self._troubles()]
        others = [asyncio.ensure_future(self._report()), asyncio.ensure_future(self._watch())]
        tasks = workers + troubles + others
        try:
            await first_failure_or_all(workers, tasks)
            self.over = True
            await first_failure_or_all(troubles, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.seconds = time.monotonic() - self.begun

    async def _work(self, queue):
        for _, number, steps in queue:
            if steps[0] != "register":
                await self.first_visit[number].wait()
            await self._visit(number, steps)
            self.first_visit[number].set()

    async def _visit(self, number, steps):
        person = self.corpus.person(number)
        token = None
        for step in steps:
            if step == "register":
                await self._register(person)
            elif number not in self.known:
                break  # its registration was answered unexpectedly, and that is on record
            elif step == "login":
                token = await self._login(person) or token
            elif step == "mistyped login":
                await self._mistype_login(person)
            elif step == "consent":
                await self._change_consent(person, token)
            else:
                await self._change_plan(person)
            self.done += 1
            user = self.known.get(number)
            if user is not None:
                if self.sampled.get(number) == user["steps"]:
                    await self._snapshot(person, user)
                user["steps"] += 1

    # The steps

    async def _register(self, person):
        answer = await self._send("register", person, Api.register, person)
        if self._expected(answer, 201):
            self.known[person.number] = {
                "id": answer.body["user_id"],
                "position": answer.body["position"],
                "steps": 0,
                "plan": person.plan,
                "consents": {c["purpose"]: c["granted"] for c in person.consents},
            }
            self._write(
                "register",
                answer,
                user_id=answer.body["user_id"],
                email=person.email,
                plan=person.plan,
                consents=[[c["purpose"], c["granted"]] for c in person.consents],
            )

    async def _login(self, person):
        """Logs in; the access token, if there is one."""
        user = self.known[person.number]
        answer = await self._send(
            "login", person, Api.login, person.email, person.password, min_position=user["position"]
        )
        if not self._expected(answer, 200):
            return None
        self._write("login", answer, user_id=user["id"], session_id=answer.body["session_id"])
        return answer.body["access_token"]

    async def _mistype_login(self, person):
        user = self.known[person.number]
        wrong = person.password[:-1] + "!?"
        answer = await self._send("login", person, Api.login, person.email, wrong, min_position=user["position"])
        if self._expected(answer, 401):
            # Each try is a guess that the server writes down, whatever its key; of those before the last it is not
            # known how far they came.
            self._write("mistyped login", answer, user_id=user["id"], tries=answer.tries)

    async def _change_consent(self, person, token):
        user = self.known[person.number]
        purpose = self.rng.choice(list(PURPOSES))
        granted = not user["consents"].get(purpose, self.rng.random() < 0.3)
        change = consent(self.rng, purpose, granted, person.locale)
        answer = await self._send("consent", person, Api.set_consent, user["id"], change, token=token)
        if self._expected(answer, 200):
            user["consents"][purpose] = granted
            user["position"] = answer.body["position"]
            self._write("consent", answer, user_id=user["id"], purpose=purpose, granted=granted)

    async def _change_plan(self, person):
        user = self.known[person.number]
        plan = self.rng.choice([p for p in PLANS if p != user["plan"]])
        answer = await self._send("plan", person, Api.set_plan, user["id"], plan)
        if self._expected(answer, 200):
            user["plan"] = plan
            user["position"] = answer.body["position"]
            self._write("plan", answer, user_id=user["id"], plan=plan)

    async def _snapshot(self, person, user):
        """Records a user's state and the time of the latest event that is in it.

        The user does nothing else meanwhile; the pauses keep the neighbouring events out of the same millisecond.
        What is compared comes from the stream `identity` alone, so both are read at its last position or after.
        """
        await asyncio.sleep(0.01)
        least = user["position"]
        state = await self._send("read", person, Api.user, user["id"], min_position=least)
        last = await self._send("read", person, Api.last_event, user["id"], min_position=least)
        if self._expected(state, 200) and self._expected(last, 200):
            self._write("snapshot", state, user_id=user["id"], time=last.body["events"][0]["time"], state=state.body)
        await asyncio.sleep(0.01)

    # Sending, and what comes back

    async def _send(self, kind, person, call, *arguments, **named):
        """Sends one request until it is answered: through lost connections, kills and a server that is too busy.

        Each try goes to the next server; when all have been asked there is a pause.
        """
        if kind != "read":
            named["key"] = str(uuid.uuid4())
        pause = 0.02
        tries = 0
        first_begun = time.monotonic()
        while True:
            await self.up.wait()
            tries += 1
            begun = time.monotonic()
            try:
                answer = await call(self._next_api(person), *arguments, address=address_of(person.number), **named)
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError):
                # Cut off while it was sent, worked on, or answered: only the log knows what became of it.
                self.counts["lost, sent again"] += 1
                wait = self._wait(person, pause, 0)
            else:
                if answer.status not in TRY_AGAIN and not (answer.status == 409 and answer.retry_after):
                    self._note_times(person, kind, first_begun, begun)
                    answer.kind, answer.tries = kind, tries
                    return answer
                self.counts[f"answered {answer.status}, sent again"] += 1
                wait = self._wait(person, pause, answer.retry_after)
            if tries % len(self.apis) == 0:
                await asyncio.sleep(wait * (0.5 + random.random()))
                pause = min(pause * 2, 1.0)

    def _next_api(self, person):
        self.asked += 1
        return self.apis[self.asked % len(self.apis)]

    def _wait(self, person, pause, retry_after):
        return max(pause, min(retry_after, 5.0))

    def _note_times(self, person, kind, first_begun, begun):
        now = time.monotonic()
        self.latency[kind].append(now - begun)
        self.until_answered[kind].append(now - first_begun)

    def _expected(self, answer, status):
        if answer.status == status:
            return True
        self.unexpected[f"{answer.kind}: {answer.problem}"] += 1
        if sum(self.unexpected.values()) > self.unexpected_limit:
            raise Failure(f"too many unexpected answers:\n{self._unexpected_listed()}")
        return False

    def _unexpected_listed(self):
        return "\n".join(f"  {count:>5,}  {what}" for what, count in sorted(self.unexpected.items()))

    def _write(self, op, answer, **what):
        position = answer.body.get("position") or answer.position
        entry = {"op": op, "key": answer.key, "position": position, **what}
        self.journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.counts[op] += 1

    # Beside the load

    def _troubles(self):
        """What goes on beside the load until it has made all its trouble."""
        return [self._kill_at_random()]

    async def _kill_at_random(self):
        """Kills and restarts the server at random moments, one in each of as many equal parts of the run."""
        server = self.servers[0]
        for part in range(self.kills):
            await self._reach(self.total * (part + self.rng.uniform(0.05, 0.95)) / self.kills)
            await asyncio.sleep(self.rng.uniform(0, 0.2))
            server.kill()
            self.up.clear()
            server.start()
            self.restarts.append(await server.wait_ready(self.session))
            self.up.set()

    async def _reach(self, threshold):
        """Waits until so many requests are done, or all."""
        while self.done < threshold and not self.over:
            await asyncio.sleep(0.01)

    async def _watch(self):
        """Notices if a server ends although nobody killed it."""
        while True:
            await asyncio.sleep(0.2)
            for server in self.servers:
                server.check_alive()

    async def _report(self):
        while True:
            await asyncio.sleep(5)
            seconds = time.monotonic() - self.begun
            left = (self.total - self.done) * seconds / max(self.done, 1)
            say(
                f"{self.done:,} of {self.total:,} requests, {self.done / seconds:,.0f}/s, "
                f"{self._trouble_so_far()}, about {left / 60:.1f} min left"
            )

    def _trouble_so_far(self):
        return f"{len(self.restarts)} of {self.kills} kills"

    def summary(self):
        lines = [f"{self.done:,} requests in {self.seconds / 60:.1f} min ({self.done / self.seconds:,.0f}/s)"]
        lines += [f"  {count:>8,}  {what}" for what, count in sorted(self.counts.items())]
        if self.restarts:
            lines.append(
                f"{len(self.restarts)} kills; from start to ready again: median {quantile(self.restarts, 0.5):.2f} s, "
                f"longest {max(self.restarts):.2f} s"
            )
        for kind, times in sorted(self.latency.items()):
            median, high = 1000 * quantile(times, 0.5), 1000 * quantile(times, 0.99)
            lines.append(f"  {kind:<9} answered in {median:.0f} ms at the median, {high:.0f} ms at the 99th percentile")
        if self.unexpected:
            lines.append(f"{sum(self.unexpected.values())} unexpected answers:\n{self._unexpected_listed()}")
        return "\n".join(lines)


async def first_failure_or_all(awaited, tasks):
    """Waits until all of `awaited` are done, or any of `tasks` fails: then raises what it failed with."""
    while not all(task.done() for task in awaited):
        unfinished = [task for task in tasks if not task.done()]
        finished, _ = await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            task.result()


def address_of(number):
    """One person's address in 198.18.0.0/15, which is set aside for load tests (RFC 2544)."""
    return f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 255}.{number & 255}"


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def say(text):
    print(f"demo: {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program, built for release")
    parser.add_argument("--work", required=True, help="an empty folder for data, journal and log")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2026)
    simulation = Simulation(parser.parse_args())
    try:
        asyncio.run(simulation.run())
    except Failure as failure:
        say(f"failed: {failure}")
        return 1
    say(simulation.summary())
    return 1 if simulation.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
