"""Holds what the load was told against what the log says, and prints a table. Ends with 1 if anything differs.

This is an independent reader: it counts the events that `gatelog replay` prints and knows nothing of the server's own
state. `audit` is pure, so that `selftest.py` can show that it does find what is wrong.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from gatelog_client import Failure, replay, state_as_of, verify

# The parts of a user's state that no later event of another kind moves.
STABLE = (
    *("user_id", "email", "email_verified", "status", "locale", "profile"),
    *("plan", "entitlements", "roles", "consents"),
)

LOGIN_EVENTS = ("login.succeeded", "session.started")
PLAN_EVENTS = ("assigned", "upgraded", "downgraded", "switched", "cancelled", "renewed")

# What an acknowledged write must have left at its position.
TYPES_OF = {
    "register": {"user.registered"},
    "login": {"login.succeeded"},
    "mistyped login": {"login.failed"},
    "consent": {"consent.granted", "consent.withdrawn"},
    "plan": {f"plan.{event}" for event in PLAN_EVENTS},
}


@dataclass
class Check:
    """One row of the table: what was looked at, how many of it, and each thing that is wrong."""

    name: str
    looked_at: int = 0
    wrong: list = field(default_factory=list)


def audit(journal, events):
    """All checks that need only the journal and the log's events."""
    journal, events = list(journal), list(events)
    return [
        check_registrations(journal, events),
        check_sessions(journal, events),
        check_mistyped(journal, events),
        check_consents(journal, events),
        check_plans(journal, events),
        check_positions(journal, events),
        check_sequences(events),
        check_event_ids(events),
    ]


def check_registrations(journal, events):
    acknowledged = Counter(entry["user_id"] for entry in journal if entry["op"] == "register")
    found = Counter(event.subject for event in events if event.type == "user.registered")
    return compare_counts("registrations are there exactly once", acknowledged, found)


def check_sessions(journal, events):
    """A login is two events: that it succeeded, and that a session began."""
    acknowledged, found = Counter(), Counter()
    for entry in journal:
        if entry["op"] == "login":
            acknowledged.update((kind, entry["user_id"], entry["session_id"]) for kind in LOGIN_EVENTS)
    for event in events:
        if event.type in LOGIN_EVENTS:
            found[event.type, event.subject, event.data.get("session_id")] += 1
    return compare_counts("logins and sessions are there exactly once", acknowledged, found)


def check_mistyped(journal, events):
    """Each is there once, and each try before the one that was answered at most once: every try is a guess."""
    check = Check("failed logins are there, once a try at most")
    least, most = Counter(), Counter()
    for entry in journal:
        if entry["op"] == "mistyped login":
            least[entry["user_id"]] += 1
            most[entry["user_id"]] += entry.get("tries", 1)
    check.looked_at = sum(least.values())
    found = Counter(event.subject for event in events if event.type == "login.failed")
    for user in most.keys() | found.keys():
        if not least[user] <= found[user] <= most[user]:
            check.wrong.append(f"{user}: acknowledged {least[user]}, tried {most[user]}, in the log {found[user]}")
    return check


def check_consents(journal, events):
    acknowledged, found = defaultdict(list), defaultdict(list)
    for entry in journal:
        if entry["op"] == "register":
            acknowledged[entry["user_id"]] += [tuple(consent) for consent in entry["consents"]]
        elif entry["op"] == "consent":
            acknowledged[entry["user_id"]].append((entry["purpose"], entry["granted"]))
    for event in events:
        if event.type in TYPES_OF["consent"]:
            found[event.subject].append((event.data.get("purpose"), event.type == "consent.granted"))
    return compare_lists("consents are there once and in order", acknowledged, found)


def check_plans(journal, events):
    acknowledged, found = defaultdict(list), defaultdict(list)
    for entry in journal:
        if entry["op"] in ("register", "plan"):
            acknowledged[entry["user_id"]].append(entry["plan"])
    for event in events:
        if event.type in TYPES_OF["plan"]:
            found[event.subject].append(event.data.get("to"))
    return compare_lists("plans are there once and in order", acknowledged, found)


def check_positions(journal, events):
    """Each acknowledged write is at the position that its answer named, and no position was named for two."""
    check = Check("positions hold what they were given for")
    at = defaultdict(set)
    for event in events:
        at[event.position].add((event.type, event.subject))
    given = {}
    for entry in journal:
        position = entry["position"]
        if entry["op"] not in TYPES_OF or not position:
            continue
        check.looked_at += 1
        if not any((kind, entry["user_id"]) in at[position] for kind in TYPES_OF[entry["op"]]):
            check.wrong.append(f"{position}: no event of {entry['op']} of {entry['user_id']}")
        if given.setdefault(position, entry["key"]) != entry["key"]:
            check.wrong.append(f"{position}: given for the keys {given[position]} and {entry['key']}")
    return check


def check_sequences(events):
    """In the order of the log, each aggregate's events are numbered 1, 2, 3 …"""
    check = Check("sequences of all aggregates are gapless")
    last = Counter()
    for event in events:
        if event.sequence == 0:
            continue  # about nobody
        aggregate = (event.stream, event.subject)
        check.looked_at += 1
        if event.sequence != last[aggregate] + 1:
            check.wrong.append(f"{event.position}: {event.sequence} after {last[aggregate]} of {' '.join(aggregate)}")
        last[aggregate] = event.sequence
    return check


def check_event_ids(events):
    check = Check("event ids occur once", looked_at=len(events))
    ids = Counter(event.id for event in events)
    check.wrong = [f"{event_id}: {count} times" for event_id, count in ids.items() if count > 1]
    return check


def compare_counts(name, acknowledged, found):
    check = Check(name, looked_at=sum(acknowledged.values()))
    for what in acknowledged.keys() | found.keys():
        if acknowledged[what] != found[what]:
            check.wrong.append(f"{what}: acknowledged {acknowledged[what]} times, in the log {found[what]} times")
    return check


def compare_lists(name, acknowledged, found):
    check = Check(name, looked_at=sum(map(len, acknowledged.values())))
    for what in acknowledged.keys() | found.keys():
        if acknowledged[what] != found[what]:
            check.wrong.append(f"{what}: acknowledged {acknowledged[what]}, in the log {found[what]}")
    return check


def check_snapshots(journal, state_at):
    """`state_at(user_id, time)` gives what was recorded then."""
    check = Check("states replayed as of a time are what was read then")
    for entry in journal:
        if entry["op"] != "snapshot":
            continue
        check.looked_at += 1
        try:
            replayed = state_at(entry["user_id"], entry["time"])
        except Failure as failure:
            check.wrong.append(str(failure))
            continue
        for name in STABLE:
            if entry["state"].get(name) != replayed.get(name):
                check.wrong.append(
                    f"{entry['user_id']} at {entry['time']}: {name} was {entry['state'].get(name)!r}, "
                    f"replayed {replayed.get(name)!r}"
                )
    return check


def check_verify(binary, data_dir):
    check = Check("gatelog verify finds no difference", looked_at=1)
    code, output = verify(binary, data_dir)
    if code != 0:
        check.wrong.append(f"exit status {code}: {output.strip()[-2000:]}")
    return check


def print_table(checks):
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = "ok" if not check.wrong else f"WRONG: {len(check.wrong)}"
        print(f"  {check.name:<{width}}  {check.looked_at:>9,}  {verdict}")
        for line in check.wrong[:5]:
            print(f"      {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program")
    parser.add_argument("--work", required=True, help="the folder that drive.py worked in; the server is not running")
    options = parser.parse_args()
    data_dir = Path(options.work) / "data"
    lines = (Path(options.work) / "journal.ndjson").read_text(encoding="utf-8").splitlines()
    journal = [json.loads(line) for line in lines]
    try:
        checks = audit(journal, replay(options.binary, data_dir))
        checks.append(check_verify(options.binary, data_dir))
        checks.append(check_snapshots(journal, lambda u, t: state_as_of(options.binary, data_dir, u, t)))
    except Failure as failure:
        print(f"demo: failed: {failure}")
        return 1
    print_table(checks)
    # A check that had nothing to look at has shown nothing.
    return 1 if any(check.wrong or check.looked_at == 0 for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
