"""The driver's own books: who exists, who consents, what is granted, and when each answer that changed that came."""

import json
import random
from dataclasses import dataclass, field
from typing import Optional

from corpus import Corpus

CONSENTING = 0.3
NOTICE = {"id": "privacy", "version": "3", "language": "de"}
PLANS = ("free", "pro", "enterprise")


def newsletter(granted):
    return {"purpose": "newsletter", "channel": "email", "granted": granted, "notice": dict(NOTICE)}


@dataclass
class Subject:
    """One user, as far as a feed is concerned. Times are this machine's clock."""

    number: int
    email: str
    given_name: Optional[str]
    locale: str
    plan: str
    granted: bool
    user_id: Optional[str] = None
    active: bool = True
    exists: bool = True
    emails: set = field(default_factory=set)
    # When a request was sent that let the feed see them again.
    opened: list = field(default_factory=list)
    # When a request was answered that ended that, why, and where it stands in the log if that was said.
    closed: list = field(default_factory=list)

    def __post_init__(self):
        self.emails.add(self.email)
        # Who is visible from the beginning.
        self.begun_visible = self.is_visible

    @property
    def is_visible(self):
        return self.exists and self.active and self.granted

    @property
    def was_ever_visible(self):
        return self.begun_visible or bool(self.opened)

    def fields(self):
        """All that a consumer may hold: what has no value is not there."""
        fields = {"email": self.email, "given_name": self.given_name, "locale": self.locale, "plan": self.plan}
        return {name: value for name, value in fields.items() if value is not None}


class Books:
    """`number` of the people of a corpus: the first of them are imported, later ones register."""

    def __init__(self, seed, users):
        self.corpus = Corpus(seed)
        self.users = users
        rng = random.Random(f"{seed}/consents")
        self._consenting = set(rng.sample(range(users), int(users * CONSENTING)))
        self.subjects = {}

    def import_rows(self):
        """The rows of the import; writes down everyone who stands in them."""
        for number in range(self.users):
            person = self.corpus.person(number)
            others = [dict(c) for c in person.consents if c["purpose"] != "newsletter"]
            granted = number in self._consenting
            # Of those who do not consent some were asked and said no.
            asked = granted or number % 3 == 0
            row = person.registration()
            del row["password"]
            row["consents"] = others + [newsletter(granted)] * asked
            self.subjects[number] = Subject(
                number=number,
                email=person.email,
                given_name=person.given_name,
                locale=person.locale,
                plan=person.plan,
                granted=granted,
            )
            yield json.dumps(row, ensure_ascii=False)

    def expected(self):
        """What each receiver must hold: by address, the granted fields."""
        return {s.email: s.fields() for s in self.subjects.values() if s.is_visible}

    def gone(self):
        """Who was withdrawn or erased or disabled on the way, and is not there at the end."""
        return [s for s in self.subjects.values() if s.closed and not s.is_visible]


@dataclass(frozen=True)
class Step:
    """What happens to one user."""

    number: int
    kind: str


def plan_steps(users, consenting, spared, leave, rng):
    """All changes of the run, in their order: each user's own stay in theirs. Nothing happens to the spared; `leave` is the
    share of those who consent that withdraw and do nothing else."""
    others = sorted(set(range(users)) - consenting)
    consenting = sorted(consenting - spared)
    chosen = []

    def choose(among, share, *kinds):
        for number in rng.sample(among, max(1, int(len(among) * share))):
            places = sorted(rng.random() for _ in kinds)
            chosen.extend((place, number, kind) for place, kind in zip(places, kinds))

    choose(consenting, leave, "withdraw")
    choose(consenting, 0.04, "withdraw", "grant")
    choose(consenting, 0.02, "withdraw", "grant", "withdraw")
    choose(others, 0.03, "grant")
    choose(others, 0.01, "grant", "withdraw")
    choose(consenting, 0.08, "erase")
    choose(others, 0.01, "erase")
    choose(consenting, 0.02, "disable")
    choose(consenting, 0.02, "disable", "enable")
    choose(consenting, 0.25, "profile")
    choose(consenting, 0.05, "email")
    choose(consenting, 0.15, "upgrade")
    choose(others, 0.03, "profile")
    choose(others, 0.02, "upgrade")
    new = max(4, users // 100)
    chosen += [(rng.random(), users + n, "register") for n in range(new)]
    # Erased, and there again under the same address: somebody new to everyone.
    for number in rng.sample(consenting, max(1, len(consenting) // 100)):
        chosen += zip(sorted(rng.random() for _ in range(2)), [number] * 2, ["erase", "register again"])
    return [(place, Step(number, kind)) for place, number, kind in sorted(chosen)]
