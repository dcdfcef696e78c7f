"""The receivers as the driver sees them: processes that are started, told what to do, killed, and lose their disks."""

import asyncio
import json
import sys
from pathlib import Path

import feeds_disk
from gatelog_client import Failure

PROGRAM = Path(__file__).with_name("feeds_receiver.py")
LIMIT = 60
# The server brings the records to these; the others come for them.
PUSHED = ("webhook", "segment")


class Actor:
    """One receiver. `known` is what it is told at each start."""

    def __init__(self, name, kind, work, known):
        self.name, self.kind, self.known = name, kind, known
        self.folder = Path(work) / "receivers" / name
        self.away = True
        self.is_pushed = kind in PUSHED
        self._log = Path(work) / f"{name}.log"
        self._process = None
        self._telling = asyncio.Lock()

    async def start(self):
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(PROGRAM), self.kind, "--disk", str(self.folder)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.order(self.known)
        await self._hear()
        self.away = False

    def order(self, order):
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def kill(self):
        """SIGKILL."""
        self.away = True
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def lose_disk(self):
        """Of a receiver that is not running."""
        feeds_disk.lose(self.folder)

    async def holdings(self):
        """By pseudonym, what it holds; nothing while it is away."""
        async with self._telling:
            if self.away:
                return None
            file = self.folder / "holdings.json"
            self.order({"do": "tell", "file": str(file)})
            await self._hear()
            return json.loads(file.read_text(encoding="utf-8"))

    def check_alive(self):
        if not self.away and self._process.returncode is not None:
            raise Failure(f"{self.name} ended by itself; see {self._log}")

    async def _hear(self):
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), LIMIT)
        except asyncio.TimeoutError:
            line = b""
        if not line:
            raise Failure(f"{self.name} does not answer; see {self._log}")


def differences(holdings, expected):
    """What of the holdings is not as the books say: a line for each user."""
    wrong, seen = [], set()
    for subject, fields in holdings.items():
        email = fields.get("email")
        if email in seen:
            wrong.append(f"{email} is there twice, the second time as {subject}")
        elif email not in expected:
            wrong.append(f"{subject} must not be there: {fields}")
        elif fields != expected[email]:
            wrong.append(f"{subject} is {fields}, must be {expected[email]}")
        seen.add(email)
    wrong += [f"{email} is missing" for email in expected.keys() - seen]
    return wrong
