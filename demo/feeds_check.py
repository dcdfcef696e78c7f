"""Holds the receivers' own recordings against the driver's books, and prints a table. Ends with 1 if anything differs.

It reads files only: `books.json` and `report.json` of `feeds.py`, and each line that a receiver wrote as a record arrived.
"""

import argparse
import json
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from check import Check, check_verify, print_table
from drive import quantile, say
from feeds_cast import differences
from feeds_disk import WITHDRAWN, hold, read_recording, recordings

# Those that replay everything from the beginning in the end.
REPLAYED = ("webhook", "sse", "pages")
# What was on its way to these may lie somewhere for as long as they do not read: in the network's buffers, or in the topic
# until it is compacted.
BUFFERED = ("sse", "topic")
# Until a withdrawal that was answered has reached who is well; and until nothing of theirs is on its way any more.
LIMIT = 2.0


class Books:
    def __init__(self, work):
        books = json.loads((work / "books.json").read_text(encoding="utf-8"))
        self.receivers = books["receivers"]
        self.fields = set(books["fields"])
        self.subjects = books["subjects"]
        self.measured = books["measured"]
        self.wrong = books["wrong"]
        self.unexpected = books["unexpected"]
        self.report = json.loads((work / "report.json").read_text(encoding="utf-8"))
        self.expected = {s["fields"]["email"]: s["fields"] for s in self.subjects if s["visible"]}
        self.ever_visible = {email for s in self.subjects if s["ever_visible"] for email in s["emails"]}
        by_id = {s["user_id"]: s for s in self.subjects if s["user_id"]}
        # Of everyone who ever was withdrawn: the pseudonym.
        self.user_of = {line["subject"]: by_id[line["user_id"]] for line in self.report if line["user_id"] in by_id}
        self.subject_of = {line["user_id"]: line["subject"] for line in self.report}


class Recording:
    """What arrived at one receiver, on all the disks that it had."""

    def __init__(self, work, name):
        self.name = name
        self.disks = [list(read_recording(path)) for path in recordings(work / "receivers" / name)]
        self.lines = [line for disk in self.disks for line in disk]
        self.records = [line for line in self.lines if "event" in line]


def seconds(time):
    """Of RFC 3339, since 1970."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def is_withdrawn(line):
    return line["event"]["type"] == WITHDRAWN


def check_answers(books):
    check = Check("all changes were answered as they must be", sum(len(s["closed"]) + 1 for s in books.subjects))
    check.wrong = list(books.unexpected)
    return check


def check_clean(recording):
    what = "every delivery verified by standardwebhooks" if recording.name.startswith("webhook") else "no request refused"
    check = Check(f"{recording.name}: {what}", len(recording.records))
    check.wrong = [line["problem"] for line in recording.lines if "problem" in line]
    return check


def check_holdings(recording, books):
    """As the receiver said itself, and as follows from its last disk."""
    check = Check(f"{recording.name}: holds exactly who consents, with exactly the granted fields", len(books.expected))
    holdings = {}
    for line in recording.disks[-1]:
        if line.get("taken"):
            hold(holdings, line["event"])
    told = books.wrong[recording.name]
    check.wrong = ["it did not say what it holds"] if told is None else list(told)
    check.wrong += [line for line in differences(holdings, books.expected) if line not in check.wrong]
    return check


def check_after_withdrawals(recording, books):
    """Once a withdrawal was taken, no field of the subject, unless they asked for it again in between.

    The withdrawal says when it happened. Whatever let the feed see the subject again was sent later, and before the record
    came.
    """
    check = Check(f"{recording.name}: no personal field after a withdrawal was delivered")
    for disk in recording.disks:
        withdrawn = {}
        for line in disk:
            if "event" not in line:
                continue
            event = line["event"]
            subject = event["subject"]
            if is_withdrawn(line):
                check.looked_at += 1
                if line["taken"]:
                    # Segment is not told when the erasure happened that a regulation is about.
                    happened = seconds(event["time"]) if "time" in event else line["at"]
                    withdrawn[subject] = max(happened, withdrawn.get(subject, 0))
            elif subject in withdrawn:
                user = books.user_of.get(subject)
                opened = user["opened"] if user else []
                if not any(withdrawn[subject] <= sent <= line["at"] for sent in opened):
                    check.wrong.append(f"{event['id']} of {subject} came {line['at'] - withdrawn[subject]:.1f} s after it")
    return check


def check_gate(recording, books):
    """What is on its way may still arrive; nothing leaves any more."""
    check = Check(f"{recording.name}: no personal field came {LIMIT:.0f} s after a withdrawal was answered")
    for line in recording.records:
        user = books.user_of.get(line["event"]["subject"])
        if not user or is_withdrawn(line):
            continue
        check.looked_at += 1
        if line["event"]["data"]["fields"].get("email") not in user["emails"]:
            check.wrong.append(f"{line['event']['id']} of {line['event']['subject']} shows somebody else")
        closed = max((c["answered"] for c in user["closed"] if c["answered"] + LIMIT < line["at"]), default=None)
        if closed is not None and not any(closed <= sent <= line["at"] for sent in user["opened"]):
            check.wrong.append(f"{line['event']['id']} of {line['event']['subject']} came {line['at'] - closed:.1f} s after it")
    return check


# What events of a change of plan, the only ones of the feed with details, say of themselves.
DETAILS = {"from", "to", "effective_at"}


def check_fields(recording, books):
    check = Check(f"{recording.name}: nothing but the named fields, of nobody who never consented")
    for line in recording.records:
        if is_withdrawn(line):
            if set(line["event"]["data"]) != {"reason"}:
                check.wrong.append(f"a withdrawal says {sorted(line['event']['data'])}")
            continue
        check.looked_at += 1
        data = line["event"]["data"]
        fields = data["fields"]
        if not fields.keys() <= books.fields or not data.keys() <= {"fields", "details"}:
            check.wrong.append(f"{line['event']['id']} says {sorted(fields)}")
        if not data.get("details", {}).keys() <= DETAILS:
            check.wrong.append(f"{line['event']['id']} says of itself {sorted(data['details'])}")
        if fields.get("email") not in books.ever_visible:
            check.wrong.append(f"{fields.get('email')} never consented")
    return check


def check_report(books):
    """Of each withdrawal the auditor sees when it was told, and when the consumer went on from there."""
    check = Check("the report knows of each withdrawal when it was delivered and acknowledged")
    at = defaultdict(list)
    for line in books.report:
        at[line["user_id"], line["position"]].append(line)
        check.looked_at += 1
        if not line["delivered_at"] or not line["acknowledged_at"]:
            check.wrong.append(f"{line['position']}, {line['reason']} at {line['withdrawn_at']}: {line}")
        elif not line["withdrawn_at"] <= line["delivered_at"] <= line["acknowledged_at"]:
            check.wrong.append(f"{line['position']}: times in a wrong order: {line}")
    reasons = {"withdraw": "consent_withdrawn", "disable": "disabled", "erase": "erased"}
    for user in books.subjects:
        for closed in user["closed"]:
            if closed["position"]:
                found = at[user["user_id"], closed["position"]]
            else:
                found = [line for line in books.report if line["user_id"] == user["user_id"]]
            if reasons[closed["kind"]] not in [line["reason"] for line in found]:
                check.wrong.append(f"{closed['kind']} of {user['user_id']} at {closed['position']} is not in it")
    return check


def check_backlog(recordings_of, books):
    """From the answer of a withdrawal to its arrival at each receiver."""
    check = Check(f"a withdrawal overtakes the webhook's backlog, within {LIMIT:.0f} s", len(books.measured))
    said = []
    for name in books.receivers:
        first = {}
        for line in recordings_of[name].records:
            if is_withdrawn(line):
                first.setdefault(line["event"]["subject"], line["at"])
        waits, latest = [], 0
        for measured in books.measured:
            at = first.get(books.subject_of.get(measured["user_id"]))
            if at is None:
                check.wrong.append(f"{name} never heard that {measured['user_id']} withdrew")
                continue
            latest = max(latest, at)
            waits.append(max(at - measured["answered"], 0))
            if name == "webhook" and waits[-1] > LIMIT:
                check.wrong.append(f"{measured['user_id']}: {waits[-1]:.2f} s")
        if not waits:
            continue
        line = f"{name} heard of {len(waits)} withdrawals {quantile(waits, 0.5):.3f} s (p50) and {max(waits):.3f} s (max) later"
        if name == "webhook":
            total, before = behind(recordings_of[name], books, latest)
            line += f"; it was behind by {total:,} records at the first, {before:,} at the last"
            if not total:
                check.wrong.append("there was no backlog")
        said.append(line)
    return check, said


def behind(recording, books, latest):
    """Records of the first round through everyone that came after the first withdrawal was answered, and after the last
    had arrived: first arrivals of a subject, on the first disk."""
    first = {}
    for line in recording.disks[0]:
        if "event" in line and not is_withdrawn(line):
            first.setdefault(line["event"]["subject"], line["at"])
    begun = min(m["answered"] for m in books.measured)
    everyone = sum(1 for s in books.subjects if s["ever_visible"] and not s["opened"])
    # Later newcomers are not part of it.
    before = sum(1 for at in first.values() if at <= begun)
    until = sum(1 for at in first.values() if at <= latest)
    return max(everyone - before, 0), max(everyone - len(books.measured) - until, 0)


def check_replay(recording, books, kinds):
    gone = [s for s in books.subjects if s["closed"] and not s["visible"]]
    count = sum(1 for s in gone if s["closed"][-1]["kind"] in kinds)
    what = "erasures" if "erase" in kinds else "withdrawals"
    check = Check(f"{recording.name}: from the beginning, after {count:,} {what}, shows none of them", count)
    gone = [s for s in gone if s["closed"][-1]["kind"] in kinds]
    emails = {email for s in gone for email in s["emails"]} - books.expected.keys()
    subjects = {books.subject_of.get(s["user_id"]) for s in gone}
    for line in recording.records:
        event = line["event"]
        if event["subject"] in subjects or event["data"].get("fields", {}).get("email") in emails:
            check.wrong.append(f"{event['type']} of {event['subject']}")
    return check


def audit(work):
    books = Books(work)
    replayed = [f"{name}-replay" for name in REPLAYED]
    recordings_of = {name: Recording(work, name) for name in [*books.receivers, *replayed]}
    checks = [check_answers(books)]
    said = []
    for name in books.receivers:
        recording = recordings_of[name]
        ids = {line["event"]["id"] for line in recording.records}
        said.append(f"{name} took {len(recording.records):,} records, {len(ids):,} different ones, on {len(recording.disks)} disks")
        checks += [
            check_clean(recording),
            check_holdings(recording, books),
            check_after_withdrawals(recording, books),
            *([] if name in BUFFERED else [check_gate(recording, books)]),
            check_fields(recording, books),
        ]
    backlog, lines = check_backlog(recordings_of, books)
    checks += [backlog, check_report(books)]
    for name in replayed:
        recording = recordings_of[name]
        checks += [
            check_clean(recording),
            check_holdings(recording, books),
            check_replay(recording, books, {"withdraw", "disable"}),
            check_replay(recording, books, {"erase"}),
        ]
    return checks, said + lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program")
    parser.add_argument("--work", required=True, help="the folder that feeds.py worked in; the server is not running")
    options = parser.parse_args()
    checks, said = audit(Path(options.work))
    checks.append(check_verify(options.binary, Path(options.work) / "data"))
    for line in said:
        say(line)
    print_table(checks)
    # A check that had nothing to look at has shown nothing.
    return 1 if any(check.wrong or check.looked_at == 0 for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
