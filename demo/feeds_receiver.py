"""One receiver of a feed, as a process of its own: a webhook's receiver, an SSE client, a client that asks for pages, a
consumer of the Kafka topic, or whoever stands in Segment's place.

The first line of its standard input says what it needs to know; each further line is an order. It ends when its input does.

    {"do": "verify", "secret": "whsec_…"}                            webhook: with which secret; nothing is answered before
    {"do": "answer", "with": "taking"|"refusing", "delay": 0.05}     webhook, segment: with what, and after how long
    {"do": "slow", "delay": 0.01}                                    the others: how long it takes over each record
    {"do": "drop"}                                                   cuts its connection in the middle of whatever comes
    {"do": "tell", "file": "…"}                                      writes what it holds to a file, then says so
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

import aiohttp
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from feeds_disk import Disk
from feeds_receiver_base import Receiver
from feeds_segment import Segment
from feeds_topic import Topic

PAUSE = 0.2
# Comments come every 15 s where nothing else does; a page is answered after 5 s where there is none.
SILENCE = 45
PAGE = 1000
# Not ready yet, too many, too busy: ask again.
TRY_AGAIN = (412, 429, 503)


class WebhookReceiver(Receiver):
    """Verifies each delivery with the published library, records it, and answers."""

    def __init__(self, disk, known):
        super().__init__(disk, known)
        self.webhook = asyncio.get_running_loop().create_future()
        self.refusing = False
        if "secret" in known:
            self.webhook.set_result(Webhook(known["secret"]))

    def order(self, order):
        if order["do"] == "verify":
            self.webhook.set_result(Webhook(order["secret"]))
        elif order["do"] == "answer":
            self.refusing, self.delay = order["with"] == "refusing", order["delay"]

    async def run(self):
        app = web.Application()
        app.router.add_post("/", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.known["port"], backlog=512).start()
        print("listening", flush=True)
        await asyncio.Event().wait()

    async def _take(self, request):
        body = await request.read()
        at = time.time()
        try:
            event = (await asyncio.shield(self.webhook)).verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            self.disk.complain(f"a delivery that cannot be verified: {error}")
            return web.Response(status=401)
        if request.headers["webhook-id"] != event["id"]:
            self.disk.complain(f"webhook-id {request.headers['webhook-id']} of record {event['id']}")
        taken = not self.refusing
        self.disk.take([event], at, taken)
        if self.delay:
            await asyncio.sleep(self.delay)
        return web.Response(status=204 if taken else 500)


class Follower(Receiver):
    """A client that asks. It goes on from the cursor on its disk, or begins anew."""

    def __init__(self, disk, known):
        super().__init__(disk, known)
        self._url = f"{known['url']}/v1/feeds/{known['feed']}/events"
        self._following = None

    def order(self, order):
        super().order(order)
        if order["do"] == "drop" and self._following:
            self._following.cancel()

    async def run(self):
        print("following", flush=True)
        headers = {"Authorization": f"Bearer {self.known['key']}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            while True:
                self._following = asyncio.ensure_future(self._follow(session))
                await asyncio.wait([self._following])
                if not self._following.cancelled():
                    error = self._following.exception()
                    if error and not isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)):
                        raise error
                await asyncio.sleep(PAUSE)

    async def _follow(self, session):
        raise NotImplementedError

    def _where(self):
        return {"after": self.disk.cursor} if self.disk.cursor else {"from": self.known["from"]}

    async def _is_refused(self, answer):
        if answer.status == 200:
            return False
        if answer.status not in TRY_AGAIN:
            self.disk.complain(f"answered {answer.status}: {(await answer.text())[:300]}")
        return True


class Pages(Follower):
    async def _follow(self, session):
        while True:
            params = {"limit": str(PAGE), "wait": "5", **self._where()}
            async with session.get(self._url, params=params) as answer:
                if await self._is_refused(answer):
                    return
                page = await answer.json()
            self.disk.take(page["events"], time.time())
            self.disk.keep_cursor(page["next"])
            await asyncio.sleep(self.delay * len(page["events"]))


class Stream(Follower):
    async def _follow(self, session):
        headers = {"Accept": "text/event-stream"}
        params = {"limit": "100"}
        if self.disk.cursor:
            headers["Last-Event-ID"] = self.disk.cursor
        else:
            params["from"] = self.known["from"]
        async with session.get(self._url, params=params, headers=headers) as answer:
            if await self._is_refused(answer):
                return
            data, cursor = [], None
            # One event's lines, up to an empty one (HTML Standard, "Interpreting an event stream").
            while line := await answer.content.readline():
                name, _, value = line.decode().rstrip("\r\n").partition(":")
                value = value[1:] if value.startswith(" ") else value
                if name == "data":
                    data.append(value)
                elif name == "id":
                    cursor = value
                elif not name and line.strip() == b"":
                    if data and data != [""]:
                        self.disk.take([json.loads("\n".join(data))], time.time())
                        if self.delay:
                            await asyncio.sleep(self.delay)
                    if cursor:
                        self.disk.keep_cursor(cursor)
                    data, cursor = [], None


KINDS = {"webhook": WebhookReceiver, "sse": Stream, "pages": Pages, "topic": Topic, "segment": Segment}


async def orders(receiver, lines):
    """Until the end of the input."""
    while line := await lines.readline():
        order = json.loads(line)
        if order["do"] == "tell":
            file = Path(order["file"])
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(receiver.disk.holdings, ensure_ascii=False), encoding="utf-8")
            partial.replace(file)
            print("told", flush=True)
        else:
            receiver.order(order)


async def standard_input():
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    return lines


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--disk", required=True, help="the folder of its disk")
    options = parser.parse_args()
    lines = await standard_input()
    receiver = KINDS[options.kind](Disk(options.disk), json.loads(await lines.readline()))
    running = asyncio.ensure_future(receiver.run())
    ordered = asyncio.ensure_future(orders(receiver, lines))
    await asyncio.wait([running, ordered], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    # Whatever is under way is cut off: all that matters is on disk.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
