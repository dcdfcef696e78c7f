"""Shows that the corpus is what it claims, and that the checks of `check.py` find what they are there to find.

Needs no server: `scripts/demo --selftest`.
"""

import dataclasses
import json
import sys
import unicodedata
import unittest

import idna

import check
from check import audit, check_snapshots
from corpus import LOCALES, Corpus
from gatelog_client import Event, Failure


class CorpusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.corpus = Corpus(7)
        cls.people = [cls.corpus.person(number) for number in range(3000)]

    def test_same_seed_same_people_in_any_order(self):
        self.assertEqual(self.corpus.person(5), Corpus(7).person(5))
        self.assertNotEqual(self.corpus.person(5), Corpus(8).person(5))

    def test_addresses_are_distinct_however_they_are_looked_up(self):
        keys = {unicodedata.normalize("NFKC", person.email).casefold() for person in self.people}
        self.assertEqual(len(keys), len(self.people))

    def test_addresses_are_well_formed(self):
        for person in self.people:
            local, domain = person.email.split("@")
            self.assertLessEqual(len(local.encode()), 64)
            self.assertLessEqual(len(idna.encode(domain, uts46=True)), 255)

    def test_addresses_have_many_forms(self):
        emails = [person.email for person in self.people]
        for what, some in (
            ("plus", any("+" in e for e in emails)),
            ("dots", any("." in e.split("@")[0] for e in emails)),
            ("upper case", any(e != e.lower() for e in emails)),
            ("own script before the @", any(not e.split("@")[0].isascii() for e in emails)),
            ("own script after the @", any(not e.split("@")[1].isascii() for e in emails)),
        ):
            self.assertTrue(some, what)

    def test_many_scripts_and_all_locales(self):
        letters = {c for person in self.people for c in person.given_name + person.family_name if c.isalpha()}
        scripts = {unicodedata.name(c).split()[0] for c in letters}
        wanted = "ARABIC ARMENIAN BENGALI CJK CYRILLIC DEVANAGARI GEORGIAN GREEK HANGUL HEBREW LATIN TAMIL THAI"
        self.assertLessEqual(set(wanted.split()), scripts)
        self.assertEqual({p.locale for p in self.people}, {tag for tag, _, _ in LOCALES.values()})

    def test_passwords_are_long_and_not_the_name(self):
        for person in self.people:
            self.assertGreaterEqual(len(person.password), 15)
            self.assertLessEqual(len(person.password), 128)
            self.assertNotIn(person.family_name.casefold() or "-", person.password.casefold().split())


ADA, BOB = "user-ada", "user-bob"


def event(kind, subject, position, sequence, **data):
    return Event(
        id=f"{position}/{sequence}",
        type=kind,
        subject=subject,
        time="2026-11-24T10:00:00.000Z",
        position=position,
        sequence=sequence,
        data=data,
    )


def answer(op, key, position, user_id, **what):
    return {"op": op, "key": key, "position": position, "user_id": user_id, **what}


def a_good_run():
    """What two people did, as the load wrote it down and as the log has it."""
    journal = [
        answer("register", 1, "identity:0:1", ADA, plan="free", consents=[["newsletter", True]]),
        answer("register", 2, "identity:1:1", BOB, plan="pro", consents=[]),
        answer("login", 3, "activity:0:1", ADA, session_id="s1"),
        answer("mistyped login", 4, "", ADA),
        answer("login", 5, "activity:0:3", ADA, session_id="s2"),
        answer("consent", 6, "identity:0:2", ADA, purpose="newsletter", granted=False),
        answer("consent", 7, "identity:0:3", ADA, purpose="newsletter", granted=True),
        answer("plan", 8, "identity:1:2", BOB, plan="free"),
        answer("snapshot", None, "", ADA, time="t", state={"user_id": ADA, "plan": {"name": "free"}}),
    ]
    events = [
        event("user.registered", ADA, "identity:0:1", 1),
        event("plan.assigned", ADA, "identity:0:1", 2, to="free"),
        event("consent.granted", ADA, "identity:0:1", 3, purpose="newsletter"),
        event("consent.withdrawn", ADA, "identity:0:2", 4, purpose="newsletter"),
        event("consent.granted", ADA, "identity:0:3", 5, purpose="newsletter"),
        event("user.registered", BOB, "identity:1:1", 1),
        event("plan.assigned", BOB, "identity:1:1", 2, to="pro"),
        event("plan.downgraded", BOB, "identity:1:2", 3, to="free"),
        event("login.succeeded", ADA, "activity:0:1", 1, session_id="s1"),
        event("session.started", ADA, "activity:0:1", 2, session_id="s1"),
        event("login.failed", ADA, "activity:0:2", 3, reason="wrong_password"),
        event("login.succeeded", ADA, "activity:0:3", 4, session_id="s2"),
        event("session.started", ADA, "activity:0:3", 5, session_id="s2"),
    ]
    return journal, events


def failing(journal, events):
    return {c.name for c in audit(journal, events) if c.wrong}


class AuditTest(unittest.TestCase):
    def test_a_good_run_passes(self):
        journal, events = a_good_run()
        self.assertEqual(failing(journal, events), set())
        self.assertTrue(all(c.looked_at for c in audit(journal, events)))

    def test_any_lost_event_is_found(self):
        journal, events = a_good_run()
        for lost in range(len(events)):
            self.assertTrue(failing(journal, events[:lost] + events[lost + 1 :]), events[lost])

    def test_any_doubled_event_is_found(self):
        journal, events = a_good_run()
        for twice in events:
            self.assertTrue(failing(journal, events + [twice]), twice)

    def test_a_write_carried_out_twice_is_found(self):
        """As a retry would be that is not recognised: new event, next number, everything else in order."""
        journal, events = a_good_run()
        for again in (
            event("user.registered", "user-ada-2", "identity:0:9", 1),
            event("login.succeeded", ADA, "activity:0:9", 6, session_id="s3"),
            event("login.failed", ADA, "activity:0:9", 6),
            event("consent.granted", ADA, "identity:0:9", 6, purpose="newsletter"),
            event("plan.downgraded", BOB, "identity:1:9", 4, to="free"),
        ):
            self.assertTrue(failing(journal, events + [again]), again)

    def test_events_out_of_sequence_are_found(self):
        journal, events = a_good_run()
        swapped = list(events)
        swapped[3], swapped[4] = swapped[4], swapped[3]
        self.assertIn("sequences of all aggregates are gapless", failing(journal, swapped))
        self.assertIn("consents are there once and in order", failing(journal, swapped))
        skipped = [dataclasses.replace(e, sequence=e.sequence + 1) if e.subject == BOB else e for e in events]
        self.assertEqual(failing(journal, skipped), {"sequences of all aggregates are gapless"})

    def test_wrong_content_is_found(self):
        journal, events = a_good_run()
        other_plan = [dataclasses.replace(e, data={"to": "pro"}) if e.type == "plan.downgraded" else e for e in events]
        self.assertEqual(failing(journal, other_plan), {"plans are there once and in order"})
        moved = [dataclasses.replace(e, position="identity:1:7") if e.type == "plan.downgraded" else e for e in events]
        self.assertEqual(failing(journal, moved), {"positions hold what they were given for"})
        journal[5]["position"] = journal[6]["position"]
        self.assertIn("positions hold what they were given for", failing(journal, events))

    def test_snapshots(self):
        journal, _ = a_good_run()
        same = {"user_id": ADA, "plan": {"name": "free"}, "last_login_at": "later"}
        good = check_snapshots(journal, lambda user, at: same)
        self.assertEqual((good.looked_at, good.wrong), (1, []))
        bad = check_snapshots(journal, lambda user, at: {"user_id": ADA, "plan": {"name": "pro"}})
        self.assertEqual(len(bad.wrong), 1)

        def fails(user, at):
            raise Failure("no such user")

        self.assertEqual(check_snapshots(journal, fails).wrong, ["no such user"])

    def test_lines_of_replay_are_understood(self):
        line = {
            "id": "e1",
            "type": "com.gatelog.consent.granted.v2",
            "subject": ADA,
            "time": "2026-11-24T10:00:00.000Z",
            "position": "identity:3:17",
            "sequence": "0000000000000004",
            "data": {"purpose": "newsletter"},
        }
        read = Event.from_line(json.loads(json.dumps(line)))
        self.assertEqual((read.type, read.sequence, read.stream), ("consent.granted", 4, "identity"))
        self.assertIn(read.type, check.TYPES_OF["consent"])


if __name__ == "__main__":
    sys.exit(unittest.main())
