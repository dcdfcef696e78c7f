"""A receiver in Segment's place: the HTTP Tracking API's `/v1/batch` and the Public API's `/regulations`."""

import asyncio
import base64
import json
import time

from aiohttp import web

from feeds_disk import WITHDRAWN
from feeds_receiver_base import Receiver

# What Segment takes: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
BATCH, MESSAGE = 500_000, 32_000
WRITE_KEY, TOKEN = "the-demo-write-key", "the-demo-token"
BASIC = "Basic " + base64.b64encode(f"{WRITE_KEY}:".encode()).decode()


class Segment(Receiver):
    def __init__(self, disk, known):
        super().__init__(disk, known)
        self.refusing = False

    def order(self, order):
        if order["do"] == "answer":
            self.refusing, self.delay = order["with"] == "refusing", order["delay"]

    async def run(self):
        app = web.Application(client_max_size=2 * BATCH)
        app.router.add_post("/v1/batch", self._batch)
        app.router.add_post("/regulations", self._regulation)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.known["port"], backlog=512).start()
        print("listening", flush=True)
        await asyncio.Event().wait()

    async def _batch(self, request):
        body = await request.read()
        at = time.time()
        if request.headers.get("authorization") != BASIC:
            self.disk.complain("a batch without the write key")
        messages = json.loads(body)["batch"]
        if len(body) > BATCH or any(len(json.dumps(m, ensure_ascii=False).encode()) > MESSAGE for m in messages):
            self.disk.complain(f"a batch of {len(body)} bytes is longer than Segment takes")
        return await self._answer([event for message in messages for event in events(message)], at, {"success": True})

    async def _regulation(self, request):
        at = time.time()
        body = await request.json()
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            self.disk.complain("a regulation without the token")
        if (body["regulationType"], body["subjectType"]) != ("SUPPRESS_WITH_DELETE", "USER_ID"):
            self.disk.complain(f"a regulation {body['regulationType']} of {body['subjectType']}")
        forget = [{"id": s, "type": WITHDRAWN, "subject": s, "data": {"reason": "regulation"}} for s in body["subjectIds"]]
        return await self._answer(forget, at, {"data": {"regulateId": "demo"}})

    async def _answer(self, events, at, well):
        taken = not self.refusing
        self.disk.take(events, at, taken)
        if self.delay:
            await asyncio.sleep(self.delay)
        return web.json_response(well if taken else {"message": "busy"}, status=200 if taken else 500)


def events(message):
    """A message in the form that the other shapes have: what it does to a profile."""
    event = {"id": message["messageId"], "subject": message["userId"], "time": message.get("timestamp")}
    if message["type"] == "identify":
        fields = {name: value for name, value in message["traits"].items() if value is not None}
        if fields:
            yield {**event, "type": "identify", "data": {"fields": fields}}
    elif message["event"] == "Consent Withdrawn":
        yield {**event, "type": WITHDRAWN, "data": {"reason": message["properties"]["reason"]}}
