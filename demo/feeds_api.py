"""What the demo of feeds asks Gatelog for, beside what the other demos do, and its import."""

import json
import subprocess
from urllib.parse import quote

from gatelog_client import Api, Failure

FEED = "marketing"
WEBHOOK = "crm"
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
    command = [str(binary), "import", "--data-dir", str(data_dir), "--json", str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-1000:]}")
    return json.loads(done.stdout)["imported"]


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

    async def set_webhook(self, url, concurrency):
        body = {"url": url, "concurrency": concurrency}
        return await self._call("PUT", f"/v1/feeds/{FEED}/webhooks/{WEBHOOK}", body, address=OPERATOR)

    async def replay_webhook(self, start):
        return await self._call("POST", f"/v1/feeds/{FEED}/webhooks/{WEBHOOK}/replay", {"from": start}, address=OPERATOR)

    async def dead_letters(self):
        return await self._call("GET", f"/v1/feeds/{FEED}/webhooks/{WEBHOOK}/dead-letters", address=OPERATOR)

    async def withdrawals(self, after=None):
        """A page of the auditor's report."""
        rest = f"&after={after}" if after else ""
        return await self._call("GET", f"/v1/feeds/{FEED}/withdrawals?limit=200{rest}", address=OPERATOR)
