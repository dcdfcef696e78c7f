"""Holds what the load was told against what Kafka holds, and the nodes' views against the log and one another.

The log is read by `kafka_reader`, which has nothing of Gatelog. The nodes are stopped; the brokers still run.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import kafka_reader
from check import Check, audit, check_snapshots, print_table
from gatelog_client import Failure, replay, state_as_of

# Each is a pass over a part of the log by a command of its own.
SNAPSHOTS = 30


def check_reading(reading):
    """What the reader minds that the audit of events does not see."""
    check = Check("commits occur once, with their aggregate's version", reading.kinds[kafka_reader.COMMIT])
    check.wrong = reading.wrong
    return check


def check_replay(binary, data_dir, events):
    """`gatelog replay` counts the same commits."""
    check = Check("gatelog replay yields the same events", len(events))
    ours = Counter((event.position, event.id) for event in events)
    theirs = Counter((event.position, event.id) for event in replay(binary, data_dir))
    check.wrong += [f"{position} {event}: not in replay" for position, event in (ours - theirs)]
    check.wrong += [f"{position} {event}: only in replay" for position, event in (theirs - ours)]
    return check


def verify(binary, node):
    """Runs `gatelog verify` on a node's folder; exit status, its report if it printed one, and what it said."""
    done = subprocess.run(
        [binary, "verify", "--data-dir", node["data_dir"], "--json"], capture_output=True, encoding="utf-8"
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {}
    return done.returncode, report, (done.stdout + done.stderr).strip()[-1500:]


def check_verified(verified):
    check = Check("gatelog verify finds no difference on any node", len(verified))
    for number, (code, report, said) in verified.items():
        if code != 0 or report.get("clean") is not True:
            check.wrong.append(f"node {number}: exit status {code}: {said}")
    return check


def check_views(verified):
    """Every view has the same rows on every node. `verify` has folded each to the log's end. None without digests."""
    views = {number: report.get("views") for number, (_, report, _) in verified.items()}
    if all(each is None for each in views.values()):
        return None
    check = Check("all views are the same on all nodes")
    digests = {
        number: {view["name"]: (view["rows"], view["digest"]) for view in each or []} for number, each in views.items()
    }
    for name in sorted(set().union(*digests.values())):
        found = {number: each.get(name) for number, each in digests.items()}
        check.looked_at += 1
        if len(set(found.values())) != 1:
            check.wrong.append(f"{name}: " + ", ".join(f"node {n}: {what}" for n, what in found.items()))
    return check


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the gatelog program")
    parser.add_argument("--work", required=True, help="the folder that drive_kafka.py worked in; no node is running")
    options = parser.parse_args()
    work = Path(options.work)
    try:
        about = json.loads((work / "cluster.json").read_text())
        journal = [json.loads(line) for line in (work / "journal.ndjson").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as missing:
        print(f"demo: failed: {missing.filename} is missing, so the load never began")
        return 1
    os.environ.update(about["settings"])
    folders = [node["data_dir"] for node in about["nodes"]]
    # The same few for every run of the same journal, from each node's folder in turn.
    snapshots = [entry for entry in journal if entry["op"] == "snapshot"][:SNAPSHOTS]
    turn = iter(range(len(snapshots)))

    def state_at(user, instant):
        return state_as_of(options.binary, folders[next(turn) % len(folders)], user, instant)

    try:
        reading = kafka_reader.Reading(kafka_reader.read(about["bootstrap"]))
        print(f"demo: an independent reader found {reading.summary()}")
        checks = audit(journal, reading.events) + [check_reading(reading)]
        checks.append(check_replay(options.binary, folders[0], reading.events))
        verified = {node["number"]: verify(options.binary, node) for node in about["nodes"]}
        checks.append(check_verified(verified))
        same = check_views(verified)
        checks += [same] if same else []
        checks.append(check_snapshots(snapshots, state_at))
    except Failure as failure:
        print(f"demo: failed: {failure}")
        return 1
    print_table(checks)
    if same is None:
        print("demo: this binary's `gatelog verify --json` prints no digests: the nodes' views were NOT compared")
    # A check that had nothing to look at has shown nothing.
    return 1 if any(check.wrong or check.looked_at == 0 for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
