"""A receiver's disk: one file of JSON lines that is only added to, which is its state and its recording at once.

A line is `{"at": seconds, "event": {…}, "taken": true}`, `{"at": seconds, "cursor": "…"}` or, for what must not happen,
`{"at": seconds, "problem": "…"}`. `at` is this machine's clock at the moment of arrival. What a receiver holds follows
from its lines, so one that is killed knows it again. A disk that is lost is put aside: the receiver never sees it again,
the checks do.
"""

import json
import os
import time
from pathlib import Path

RECORDING = "recording.jsonl"
WITHDRAWN = "com.gatelog.feed.subject.withdrawn.v1"


class Disk:
    """As the receiver has it while it runs."""

    def __init__(self, folder):
        self.path = Path(folder) / RECORDING
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(self.path)
        self.holdings, self.cursor = {}, None
        for line in read_recording(self.path):
            self._apply(line)
        self._file = self.path.open("ab", buffering=0)

    def take(self, events, at, taken=True):
        """Records what arrived, in its order, before anybody is told that it did."""
        self._add([{"at": at, "event": event, "taken": taken} for event in events])

    def keep_cursor(self, cursor):
        if cursor != self.cursor:
            self._add([{"at": time.time(), "cursor": cursor}])

    def complain(self, problem):
        self._add([{"at": time.time(), "problem": problem}])

    def _add(self, lines):
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        rest = memoryview(text.encode())
        while rest:
            rest = rest[self._file.write(rest) :]
        for line in lines:
            self._apply(line)

    def _apply(self, line):
        if "cursor" in line:
            self.cursor = line["cursor"]
        elif line.get("taken"):
            hold(self.holdings, line["event"])


def hold(holdings, event):
    """What a consumer does with a record: forget the subject, or replace what it holds of it."""
    if event["type"] == WITHDRAWN:
        holdings.pop(event["subject"], None)
    else:
        holdings[event["subject"]] = event["data"]["fields"]


def cut_torn_line(path):
    """Removes the end of a line that a kill cut off."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def read_recording(path):
    path = Path(path)
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def lose(folder):
    """Puts the disk aside; the receiver begins with an empty one."""
    path = Path(folder) / RECORDING
    if path.exists():
        cut_torn_line(path)
        path.rename(path.with_name(f"lost-{len(list(path.parent.glob('lost-*'))) + 1}.jsonl"))


def recordings(folder):
    """The files of all disks that a receiver had, in the order in which it had them."""
    folder = Path(folder)
    lost = [folder / f"lost-{n + 1}.jsonl" for n in range(len(list(folder.glob("lost-*"))))]
    return lost + [folder / RECORDING]
