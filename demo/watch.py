"""Every single answer while something is watched: how soon, with what status, and which never came."""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Optional

from drive import quantile
from gatelog_client import Api


@dataclass
class Seen:
    """One request and what came back."""

    kind: str
    begun: float
    seconds: float
    status: Optional[int]  # None: no answer


class Watch:
    """What was answered to the requests that began before `until`, or were under way when the watch began."""

    def __init__(self):
        self.begun = time.monotonic()
        self.until = None
        self.seen = []

    def note(self, kind, begun, status):
        if self.until is None or begun <= self.until:
            self.seen.append(Seen(kind, begun, time.monotonic() - begun, status))

    def end(self):
        """Of what begins from now on nothing is noted any more."""
        self.until = time.monotonic()

    def of(self, kinds):
        return [seen for seen in self.seen if seen.kind in kinds]

    def first_refusal(self, kinds):
        """Seconds until the first 503 came to one of these kinds, if one came."""
        ends = [seen.begun + seen.seconds - self.begun for seen in self.of(kinds) if seen.status == 503]
        return min(ends, default=None)


def statuses(seen):
    counts = Counter("no answer" if each.status is None else str(each.status) for each in seen)
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(counts.items())) or "none"


def times_by_kind(seen):
    """A line for each kind: how many, what they were answered, how long that took."""
    by_kind = defaultdict(list)
    for each in seen:
        by_kind[each.kind].append(each)
    lines = []
    for kind, of_kind in sorted(by_kind.items()):
        seconds = [each.seconds for each in of_kind]
        lines.append(
            f"{kind:<13} {statuses(of_kind)}; {quantile(seconds, 0.5):.3f} s at the median, "
            f"{quantile(seconds, 0.99):.3f} s at the 99th percentile, {max(seconds):.3f} s at most"
        )
    return lines


class WatchedApi(Api):
    """One node's API. While the simulation watches, each answer is noted; 503 must come with Retry-After at any time."""

    def __init__(self, simulation, session, url, api_key):
        super().__init__(session, url, api_key)
        self._simulation = simulation

    async def _call(self, method, path, *arguments, **named):
        begun, status = time.monotonic(), None
        try:
            answer = await super()._call(method, path, *arguments, **named)
            status = answer.status
            if status == 503 and not answer.retry_after:
                self._simulation.unexpected[f"{method} {path.split('?')[0]}: 503 without Retry-After"] += 1
            return answer
        finally:
            # It may have begun while the request was under way.
            if self._simulation.watch:
                self._simulation.watch.note(kind_of(method, path), begun, status)


def kind_of(method, path):
    """What the load calls it."""
    if method == "GET":
        return "read"
    last = path.split("/")[-1] if "/consents/" not in path else "consent"
    return {"registrations": "register", "logins": "login"}.get(last, last)
