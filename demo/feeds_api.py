"""What the demo of feeds asks Gatelog for, beside what the other demos do, and its import."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

from gatelog_client import Api, Failure

FEED = "marketing"
# From where the operator asks: an address for documentation (RFC 5737).
OPERATOR = "192.0.2.1"
FIELDS = ("email", "given_name", "locale", "plan")
DEFINITION = {
    "purpose": "newsletter",
    "fields": list(FIELDS),
    "events": ["user.profile_changed", "user.email_changed", "plan.upgraded"],
}


def load(binary, data_dir, file):
    """Runs `gatelog import` of a file; how many users it took."""
    return json.loads(run(binary, "import", "--data-dir", str(data_dir), "--json", str(file)))["imported"]


def move(binary, data_dir, new, environment):
    """What an operator does who outgrows one machine: the log is copied to Kafka, and a node begins there with the secrets."""
    run(binary, "log", "copy", "--data-dir", str(data_dir), "--from", "embedded", "--to", "kafka", more=environment)
    Path(new).mkdir(mode=0o700)
    shutil.copytree(Path(data_dir) / "secrets", Path(new) / "secrets", copy_function=shutil.copy2)
    (Path(new) / "secrets").chmod(0o700)
    for secret in (Path(new) / "secrets").rglob("*"):
        secret.chmod(0o700 if secret.is_dir() else 0o600)


def run(binary, *arguments, more=None):
    """What a command prints."""
    command = [str(binary), *arguments]
    environment = {**os.environ, **(more or {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done.stdout


class FeedsApi(Api):
    """One request each, no retries, as in `Api`."""

    async def find(self, email):
        return await self._call("GET", f"/v1/users?email={quote(email, safe='')}", address=OPERATOR)

    async def change_profile(self, user_id, change, *, key, address):
        return await self._call("PATCH", f"/v1/users/{user_id}/profile", change, key=key, address=address)

    async def change_email(self, user_id, email, *, key, address):
        return await self._call("PUT", f"/v1/users/{user_id}/email", {"email": email}, key=key, address=address)

    async def set_status(self, user_id, status, *, key, address):
        return await self._call("PUT", f"/v1/users/{user_id}/status", {"status": status}, key=key, address=address)

    async def erase(self, user_id, *, key, address):
        """Without a key: whoever repeats it is told that there is no such user."""
        return await self._call("DELETE", f"/v1/users/{user_id}", address=address)

    async def create_key(self, name, scopes):
        return await self._call("POST", "/v1/api-keys", {"name": name, "scopes": scopes}, address=OPERATOR)

    async def define_feed(self):
        return await self._call("PUT", f"/v1/feeds/{FEED}", DEFINITION, address=OPERATOR)

    async def set_webhook(self, name, body):
        return await self._call("PUT", f"/v1/feeds/{FEED}/webhooks/{name}", body, address=OPERATOR)

    async def replay_webhook(self, name, start):
        return await self._call("POST", f"/v1/feeds/{FEED}/webhooks/{name}/replay", {"from": start}, address=OPERATOR)

    async def dead_letters(self, name):
        return await self._call("GET", f"/v1/feeds/{FEED}/webhooks/{name}/dead-letters", address=OPERATOR)

    async def write_topic(self):
        return await self._call("PUT", f"/v1/feeds/{FEED}/topic", {}, address=OPERATOR)

    async def feed(self):
        return await self._call("GET", f"/v1/feeds/{FEED}", address=OPERATOR)

    async def withdrawals(self, after=None):
        """A page of the auditor's report."""
        rest = f"&after={after}" if after else ""
        return await self._call("GET", f"/v1/feeds/{FEED}/withdrawals?limit=200{rest}", address=OPERATOR)
