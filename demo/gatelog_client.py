"""How the demo talks to Gatelog: its command line, its HTTP API, and the lines that `gatelog replay` prints.

Everything that depends on the form of these stands here and nowhere else in the demo.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import aiohttp

API_KEY_VARIABLE = "GATELOG_BOOTSTRAP_API_KEY"


class Failure(Exception):
    """The demo cannot go on. The message says what happened."""


# The command line


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass(frozen=True)
class Machine:
    """Where a server runs: its address, that of its clients, and what its command begins with."""

    address: str
    clients: str
    enter: tuple = ()


LOOPBACK = Machine("127.0.0.1", "127.0.0.1")


class Server:
    """One `gatelog serve` process on one data directory, which may be killed and started again."""

    def __init__(self, binary, data_dir, api_key, log_file, settings=None, port=None, machine=LOOPBACK):
        self.port = port or free_port()
        self.url = f"http://{machine.address}:{self.port}"
        self._command = [
            str(binary),
            "serve",
            "--listen",
            f"{machine.address}:{self.port}",
            "--data-dir",
            str(data_dir),
            "--trusted-proxies",
            machine.clients,
        ]
        # Should the demo itself be killed, the kernel kills what it started.
        if shutil.which("setpriv"):
            self._command = ["setpriv", "--pdeathsig", "KILL", "--", *self._command]
        self._command = [*machine.enter, *self._command]
        self._environment = {**os.environ, **(settings or {}), API_KEY_VARIABLE: api_key}
        self._log_path = Path(log_file)
        self._process = None

    def start(self):
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self):
        """SIGKILL: the process gets no chance to write anything more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self):
        """SIGTERM, as an operator would; a process that does not end within 30 s is an error."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Failure("the server did not end within 30 s of SIGTERM") from None

    def check_alive(self):
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise Failure(f"the server ended by itself with status {code}:\n{self.log_tail()}")

    def log_tail(self, lines=20):
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])

    async def wait_ready(self, session, limit=60.0):
        """Waits for `/readyz` to answer 200; the seconds that took."""
        begun = time.monotonic()
        while time.monotonic() - begun < limit:
            self.check_alive()
            try:
                timeout = aiohttp.ClientTimeout(total=2)
                async with session.get(self.url + "/readyz", timeout=timeout) as answer:
                    if answer.status == 200:
                        return time.monotonic() - begun
            except (aiohttp.ClientError, asyncio.TimeoutError):
                pass
            await asyncio.sleep(0.005)
        raise Failure(f"the server was not ready within {limit:.0f} s:\n{self.log_tail()}")


def replay(binary, data_dir):
    """Yields every event of the log, as `Event`."""
    command = [str(binary), "replay", "--data-dir", str(data_dir), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout:
            yield Event.from_line(json.loads(line))
    if process.returncode != 0:
        raise Failure(f"{' '.join(command)} ended with status {process.returncode}")


def state_as_of(binary, data_dir, user_id, instant):
    """What Gatelog says a user's state was at `instant`, in the form of `GET /v1/users/{id}`."""
    command = [str(binary), "replay", "--data-dir", str(data_dir), "--as-of", instant, "--user", user_id, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def verify(binary, data_dir):
    """Runs `gatelog verify`; its exit status and what it printed."""
    done = subprocess.run(
        [str(binary), "verify", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    return done.returncode, done.stdout


# The log's events


@dataclass(frozen=True)
class Event:
    """One event of the log, as far as the demo judges it."""

    id: str
    type: str  # without prefix and version, such as "user.registered"
    subject: str
    time: str
    position: str  # stream:partition:offset of its commit
    sequence: int  # within its aggregate; 0 where there is none
    data: dict

    @property
    def stream(self):
        return self.position.split(":")[0]

    @classmethod
    def from_line(cls, line):
        return cls(
            id=line["id"],
            type=re.sub(r"^com\.gatelog\.|\.v\d+$", "", line["type"]),
            subject=line.get("subject") or "",
            time=line["time"],
            position=line["position"],
            sequence=int(line["sequence"]),
            data=line.get("data") or {},
        )


# The HTTP API


@dataclass
class Answer:
    status: int
    body: dict
    position: str
    retry_after: float
    key: Optional[str]  # the Idempotency-Key it was asked with
    kind: str = ""  # what it was asked for
    tries: int = 1  # how often it was asked

    @property
    def problem(self):
        return f"{self.status} {self.body.get('type', '')}: {self.body.get('detail') or self.body.get('title')}"


class Api:
    """One request each, no retries. A lost connection is an `aiohttp.ClientError` or an `asyncio.TimeoutError`."""

    def __init__(self, session, url, api_key):
        self._session = session
        self._url = url
        self._api_key = api_key

    async def register(self, person, *, key, address):
        return await self._call("POST", "/v1/registrations", person.registration(), key=key, address=address)

    async def login(self, email, password, *, key, address, min_position):
        """`min_position`: after the registration, wherever that was answered."""
        body = {"identifier": email, "password": password}
        return await self._call(
            "POST", "/v1/logins", body, key=key, address=address, min_position=min_position, authorized=False
        )

    async def set_consent(self, user_id, change, *, key, address, token=None):
        body = {name: value for name, value in change.items() if name != "purpose"}
        path = f"/v1/users/{user_id}/consents/{change['purpose']}"
        return await self._call("PUT", path, body, key=key, address=address, token=token)

    async def set_plan(self, user_id, plan, *, key, address):
        body = {"plan": plan, "reason": "demo"}
        return await self._call("PUT", f"/v1/users/{user_id}/plan", body, key=key, address=address)

    async def user(self, user_id, *, min_position, address):
        return await self._call("GET", f"/v1/users/{user_id}", address=address, min_position=min_position)

    async def last_event(self, user_id, *, min_position, address):
        path = f"/v1/users/{user_id}/timeline?limit=1"
        return await self._call("GET", path, address=address, min_position=min_position)

    async def _call(
        self, method, path, body=None, *, key=None, address=None, token=None, min_position=None, authorized=True
    ):
        # Each person comes from an address of their own, as they would through a load balancer.
        headers = {"X-Forwarded-For": address}
        if authorized:
            headers["Authorization"] = f"Bearer {token or self._api_key}"
        if key:
            headers["Idempotency-Key"] = key
        if min_position:
            headers["Gatelog-Min-Position"] = min_position
        async with self._session.request(method, self._url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            try:
                content = json.loads(text) if text else {}
            except json.JSONDecodeError:
                raise Failure(f"{method} {path} was answered {answer.status} with no JSON: {text[:200]!r}") from None
            return Answer(
                status=answer.status,
                body=content,
                position=answer.headers.get("Gatelog-Position", ""),
                retry_after=float(answer.headers.get("Retry-After") or 0),
                key=key,
            )
