"""Shows that the corpus is what it claims, and that the checks of `check.py` find what they are there to find.

Needs no server: `scripts/demo --selftest`.
"""

import contextlib
import dataclasses
import io
import json
import sys
import unicodedata
import unittest
from collections import Counter
from types import SimpleNamespace

import idna

import check
import check_kafka
import kafka_away
import kafka_reader
from check import audit, check_snapshots
from corpus import LOCALES, Corpus
from gatelog_client import Event, Failure
from watch import Watch


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

    def test_a_guess_may_be_written_down_once_a_try(self):
        journal, events = a_good_run()
        again = dataclasses.replace(events[-3], id="again", sequence=6)
        self.assertIn("failed logins are there, once a try at most", failing(journal, events + [again]))
        journal[3]["tries"] = 2
        self.assertEqual(failing(journal, events + [again]), set())
        third = dataclasses.replace(events[-3], id="third", sequence=7)
        self.assertEqual(failing(journal, events + [again, third]), {"failed logins are there, once a try at most"})
        self.assertTrue(failing(journal, events[:-3] + events[-2:]), "each must be there at least once")

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


def claim(offset, partition=0):
    return record(offset, partition, "claim", 0, 0, 0, b"")


def commit(offset, epoch, number, sequences, partition=0, commit_id=None):
    """A commit with one event for each of the sequences."""
    batch = [
        {
            "id": f"{partition}/{offset}/{sequence}",
            "type": "com.gatelog.consent.granted.v2",
            "subject": f"user-{partition}",
            "time": "2026-11-24T10:00:00.000Z",
            "sequence": f"{sequence:016}",
            "data": {"purpose": "newsletter"},
        }
        for sequence in sequences
    ]
    value = json.dumps(batch).encode()
    return record(offset, partition, "commit", epoch, number, sequences[-1], value, commit_id)


def record(offset, partition, kind, epoch, number, version, value, commit_id=None):
    headers = {
        "gl_kind": kind,
        "gl_commit": commit_id or f"commit-{partition}-{offset}",
        "gl_epoch": str(epoch),
        "gl_seq": str(number),
        "gl_version": str(version),
    }
    return kafka_reader.Record("identity", partition, offset, headers, value)


class KafkaReaderTest(unittest.TestCase):
    """The epoch rule, on records that nobody had to write."""

    def read(self, *records):
        """What each record was judged to be, and the sequences of the events that count."""
        reading = kafka_reader.Reading(records)
        return reading, [event.sequence for event in reading.events]

    def counts(self, *records):
        return dict(self.read(*records)[0].kinds)

    def test_one_owner(self):
        reading, sequences = self.read(claim(0), commit(1, 0, 0, [1, 2]), commit(2, 0, 1, [3]))
        self.assertEqual((sequences, reading.wrong), ([1, 2, 3], []))
        event = reading.events[1]
        self.assertEqual((event.position, event.type, event.subject), ("identity:0:1", "consent.granted", "user-0"))
        self.assertEqual((event.stream, event.data), ("identity", {"purpose": "newsletter"}))

    def test_nothing_counts_before_a_claim(self):
        self.assertEqual(self.counts(commit(0, 0, 0, [1])), {kafka_reader.STALE: 1})

    def test_a_zombie_is_void_however_long_it_goes_on(self):
        records = [claim(0), commit(1, 0, 0, [1]), claim(2), commit(3, 0, 1, [2]), commit(4, 2, 0, [2])]
        records += [commit(5, 0, 2, [3]), commit(6, 2, 1, [3])]
        reading, sequences = self.read(*records)
        self.assertEqual(sequences, [1, 2, 3])
        self.assertEqual([e.position for e in reading.events], ["identity:0:1", "identity:0:4", "identity:0:6"])
        self.assertEqual(dict(reading.kinds), {"claim": 2, "commit": 3, kafka_reader.STALE: 2})

    def test_a_copy_is_void(self):
        first = commit(1, 0, 0, [1])
        twice = dataclasses.replace(first, offset=2)
        reading, sequences = self.read(claim(0), first, twice, commit(3, 0, 1, [2]))
        self.assertEqual((sequences, reading.wrong, reading.kinds[kafka_reader.COPY]), ([1, 2], [], 1))

    def test_what_follows_a_hole_is_void_until_the_hole_is_filled_or_there_is_a_claim(self):
        holed = [claim(0), commit(1, 0, 0, [1]), commit(2, 0, 2, [3])]
        self.assertEqual(self.counts(*holed), {"claim": 1, "commit": 1, kafka_reader.BEYOND: 1})
        self.assertEqual(self.read(*holed, commit(3, 0, 1, [2]))[1], [1, 2])
        self.assertEqual(self.read(*holed, claim(3), commit(4, 3, 0, [2]))[1], [1, 2])

    def test_a_copied_claim_begins_an_epoch(self):
        self.assertEqual(self.read(claim(0), claim(1), commit(2, 0, 0, [1]), commit(3, 1, 0, [1]))[1], [1])

    def test_offsets_may_have_gaps(self):
        self.assertEqual(self.read(claim(5), commit(9, 5, 0, [1]), commit(40, 5, 1, [2]))[1], [1, 2])

    def test_partitions_are_judged_apart(self):
        records = [claim(0), claim(7, 1), commit(8, 7, 0, [1], 1), commit(1, 0, 0, [1]), commit(2, 0, 1, [2])]
        reading, sequences = self.read(*records)
        self.assertEqual((sequences, reading.kinds[kafka_reader.COMMIT]), ([1, 1, 2], 3))

    def test_a_commit_that_counts_twice_is_wrong(self):
        """As it would be if a retry were not recognised by the next owner."""
        records = [claim(0), commit(1, 0, 0, [1], commit_id="c"), claim(2), commit(3, 2, 0, [2], commit_id="c")]
        self.assertEqual(len(self.read(*records)[0].wrong), 1)

    def test_a_version_that_is_not_the_last_sequence_is_wrong(self):
        good = commit(1, 0, 0, [1, 2])
        bad = dataclasses.replace(good, headers={**good.headers, "gl_version": "7"})
        self.assertEqual(len(self.read(claim(0), bad)[0].wrong), 1)

    def test_a_lost_commit_is_found(self):
        """Whether the writer noticed (a new claim) or not: the aggregate's sequence has a gap."""
        for rest in ([commit(2, 0, 1, [3])], [claim(2), commit(3, 2, 0, [3])]):
            reading, _ = self.read(claim(0), commit(1, 0, 0, [1]), *rest)
            self.assertTrue(check.check_sequences(reading.events).wrong)

    def test_what_is_no_record_of_the_log_is_refused(self):
        good = commit(1, 0, 0, [1])
        no_epoch = {name: value for name, value in good.headers.items() if name != "gl_epoch"}
        for bad in (
            dataclasses.replace(good, headers=no_epoch),
            dataclasses.replace(good, headers={**good.headers, "gl_kind": "other"}),
            dataclasses.replace(good, value=b"{"),
            dataclasses.replace(good, value=b"[]"),
            dataclasses.replace(good, value=b"[{}]"),
            claim(0),  # an offset for the second time
        ):
            with self.assertRaises(Failure, msg=bad):
                self.read(claim(0), bad)


class ViewsTest(unittest.TestCase):
    def report(self, *views):
        return 0, {"clean": True, "views": [dict(zip(("name", "rows", "digest"), view)) for view in views]}, ""

    def test_views_are_compared(self):
        users, more = ("users", 3, "aa"), ("users", 3, "ab")
        same = check_kafka.check_views({1: self.report(users), 2: self.report(users)})
        self.assertEqual((same.looked_at, same.wrong), (1, []))
        self.assertEqual(len(check_kafka.check_views({1: self.report(users), 2: self.report(more)}).wrong), 1)
        self.assertEqual(len(check_kafka.check_views({1: self.report(users), 2: self.report()}).wrong), 1)

    def test_without_digests_nothing_is_claimed(self):
        self.assertIsNone(check_kafka.check_views({1: (0, {"clean": True}, ""), 2: (0, {"clean": True}, "")}))

    def test_a_node_that_is_not_clean_is_named(self):
        bad = check_kafka.check_verified({1: (0, {"clean": True}, ""), 2: (1, {"clean": False}, "DIFFERENCE")})
        self.assertEqual((bad.looked_at, len(bad.wrong)), (2, 1))
        self.assertIn("node 2", bad.wrong[0])


class KafkaAwayTest(unittest.TestCase):
    def judge(self, *answers):
        watch = Watch()
        for kind, status in answers:
            watch.note(kind, watch.begun, status)
        watch.end()
        # What begins later is of no interest.
        watch.note("consent", watch.until + 1, None)
        simulation = SimpleNamespace(unexpected=Counter(), timeout=SimpleNamespace(total=8))
        trouble = SimpleNamespace(who="frozen", down=60.0, again={"a": 3.0}, bare=None)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            kafka_away.judge(simulation, trouble, watch)
        return simulation.unexpected, said.getvalue()

    def test_refusals_in_time_and_reads_all_the_time_are_as_they_should_be(self):
        unexpected, said = self.judge(("consent", 503), ("login", 503), ("login", 200), ("JWKS", 200))
        self.assertFalse(unexpected)
        self.assertIn("1 × 200, 2 × 503", said)

    def test_reads_that_fail_and_writes_without_an_answer_are_found(self):
        unexpected, _ = self.judge(("consent", 503), ("plan", None), ("JWKS", 200), ("read a user", 503), ("JWKS", None))
        self.assertEqual(sorted(unexpected.values()), [1, 2])

    def test_where_nothing_was_read_or_refused_nothing_was_shown(self):
        for answers in ([("consent", 503)], [("consent", 200), ("JWKS", 200)]):
            with self.assertRaises(Failure):
                self.judge(*answers)


if __name__ == "__main__":
    sys.exit(unittest.main())
