"""Writes passwords.txt from two packages; see README.md. Usage: make.py path/to/@zxcvbn-ts/language-common/src/passwords.json

Needs `pip install zxcvbn==4.5.0`; the other is `npm pack @zxcvbn-ts/language-common@4.1.3`.
"""
import json
import pathlib
import sys

from zxcvbn.frequency_lists import FREQUENCY_LISTS

common = set(FREQUENCY_LISTS["passwords"]) | set(json.load(open(sys.argv[1], encoding="utf-8")))
# Dictionary words shorter than the shortest password allowed add little.
for words in ("english_wikipedia", "us_tv_and_film"):
    common |= {w for w in FREQUENCY_LISTS[words] if len(w) >= 8}
# Shorter entries can neither be a password nor make up most of one.
entries = {w.lower() for w in common if 5 <= len(w) <= 64 and w.isprintable() and " " not in w}
text = "\n".join(sorted(entries, key=str.encode)) + "\n"
pathlib.Path(__file__).with_name("passwords.txt").write_text(text, encoding="utf-8")
print(len(entries), "entries,", len(text.encode()), "bytes")
