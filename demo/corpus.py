"""People as the world has them: names in many scripts, addresses in many forms, pass phrases in the owner's language.

Everything follows from a seed: person number n of a seed is always the same person. Names and words come from the
corpora that Faker ships. No address can reach anybody: all domains lie under names reserved for examples and tests
(RFC 2606, and IANA's internationalised test domains).
"""

import random
import re
import unicodedata
from dataclasses import dataclass

from faker import Faker

# Faker's locale → the language tag a browser would send, the label of an address's domain, and a reserved suffix.
LOCALES = {
    "ar_AA": ("ar", "بريد", "إختبار"),
    "bg_BG": ("bg-BG", "поща", "example"),
    "bn_BD": ("bn-BD", "ডাক", "example"),
    "cs_CZ": ("cs-CZ", "pošta", "example"),
    "da_DK": ("da-DK", "blåbærgrød", "example"),
    "de_DE": ("de-DE", "bücher", "example"),
    "el_GR": ("el-GR", "ταχυδρομείο", "δοκιμή"),
    "en_GB": ("en-GB", "post", "example"),
    "es_MX": ("es-MX", "mañana", "example"),
    "fa_IR": ("fa-IR", "نامه", "آزمایشی"),
    "fr_FR": ("fr-FR", "forêt", "example"),
    "he_IL": ("he-IL", "דואר", "טעסט"),
    "hi_IN": ("hi-IN", "डाक", "परीक्षा"),
    "hy_AM": ("hy-AM", "փոստ", "example"),
    "ja_JP": ("ja-JP", "郵便", "テスト"),
    "ka_GE": ("ka-GE", "ფოსტა", "example"),
    "ko_KR": ("ko-KR", "우편", "테스트"),
    "nl_NL": ("nl-NL", "reünie", "example"),
    "pl_PL": ("pl-PL", "łączność", "example"),
    "pt_BR": ("pt-BR", "coração", "example"),
    "ru_RU": ("ru-RU", "почта", "испытание"),
    "ta_IN": ("ta-IN", "அஞ்சல்", "பரிட்சை"),
    "th_TH": ("th-TH", "ไปรษณีย์", "example"),
    "tr_TR": ("tr-TR", "öğrenci", "example"),
    "uk_UA": ("uk-UA", "пошта", "example"),
    "vi_VN": ("vi-VN", "thư", "example"),
    "zh_CN": ("zh-CN", "邮件", "测试"),
    "zh_TW": ("zh-TW", "郵件", "測試"),
}

PURPOSES = {"newsletter": "email", "product_updates": "email", "sms_offers": "sms"}
NOTICE_VERSIONS = ("2026-01", "2026-06")


@dataclass(frozen=True)
class Person:
    """One person, as the person would fill in the form."""

    number: int
    email: str
    password: str
    locale: str
    given_name: str
    family_name: str
    plan: str
    consents: tuple

    def registration(self):
        """The body of `POST /v1/registrations`."""
        body = {
            "email": self.email,
            "password": self.password,
            "locale": self.locale,
            "profile": {"given_name": self.given_name, "family_name": self.family_name},
            "consents": [dict(c) for c in self.consents],
        }
        if self.plan != "free":
            body["plan"] = self.plan
        return body


def consent(rng, purpose, granted, language):
    """What a form sends when somebody ticks or clears a box: the choice, and the notice that was on the page."""
    return {
        "purpose": purpose,
        "channel": PURPOSES[purpose],
        "granted": granted,
        "notice": {"id": purpose.replace("_", "-"), "version": rng.choice(NOTICE_VERSIONS), "language": language},
    }


class Corpus:
    """A seeded source of people. `person(n)` may be asked for in any order."""

    def __init__(self, seed):
        self.seed = seed
        self._locales = sorted(LOCALES)
        self._fakers = {locale: Faker(locale) for locale in self._locales}

    def person(self, number):
        rng = random.Random(f"{self.seed}/{number}")
        locale = rng.choice(self._locales)
        tag, label, suffix = LOCALES[locale]
        fake = self._fakers[locale]
        fake.seed_instance(f"{self.seed}/{number}")
        given, family = clean(fake.first_name()), clean(fake.last_name())
        purposes = [p for p in PURPOSES if rng.random() < 0.5]
        return Person(
            number=number,
            email=self._email(rng, fake, number, given, family, label, suffix),
            password=self._passphrase(rng, fake, given, family),
            locale=tag,
            given_name=given,
            family_name=family,
            plan=rng.choices(("free", "pro", "enterprise"), (80, 17, 3))[0],
            consents=tuple(consent(rng, p, rng.random() < 0.7, tag) for p in purposes),
        )

    def _email(self, rng, fake, number, given, family, label, suffix):
        local = rng.choice(
            (
                lambda: ascii_only(given) + "." + ascii_only(family),
                lambda: ascii_only(given).capitalize() + ascii_only(family).upper(),
                lambda: ascii_only(fake.user_name()),
                lambda: ascii_only(family) + "+" + rng.choice(("shop", "news", "Gatelog", "2026")),
                lambda: ascii_only(given)[:1] + "_" + ascii_only(family),
                lambda: ascii_only(family) + "-" + str(rng.randrange(1950, 2010)),
            )
        )()
        # Some people's own script stands before the @ too (RFC 6531). One word of letters: marks need their base.
        if rng.random() < 0.04 and re.fullmatch(r"[^\W\d_]{2,20}", given):
            local = unicodedata.normalize("NFC", given)
        # The number makes the address this person's alone, before or after the @, whatever look-up folds away.
        house = rng.choice(
            (
                lambda: f"mail{number}.example.com",
                lambda: f"{rng.choice(('web', 'uni', 'home', 'firma'))}-{number % 97}.example.net",
                lambda: "Post.Example.ORG",
                lambda: f"{label}{number}.{suffix}",
                lambda: f"{label}.{suffix}",
            )
        )()
        return f"{local}{'.' if local[-1:].isdigit() else ''}{number}@{house}"

    def _passphrase(self, rng, fake, given, family):
        """Four or more words of the owner's language with something between, 15 characters at the least."""
        names = [n.casefold() for n in (given, family)]
        words = []
        while len("".join(words)) < 18 or len(words) < 4:
            word = clean(fake.word())
            # Nobody's own name: the server refuses it, rightly.
            if not any(n and (n in word.casefold() or word.casefold() in n) for n in names):
                words.append(word)
            if rng.random() < 0.1:
                words.append(str(rng.randrange(10, 10_000)))
        return unicodedata.normalize("NFC", rng.choice((" ", "-", ". ", "_")).join(words[:12]))


def clean(text):
    """`text` as a person would type it: composed, without the stray marks and blanks that a corpus may carry.

    The joiners stay: Persian and the scripts of India cannot be written without them.
    """
    stray = ("Cc", "Cf", "Cn")
    composed = unicodedata.normalize("NFC", text)
    kept = (c for c in composed if c in "\u200c\u200d" or unicodedata.category(c) not in stray)
    return " ".join("".join(kept).split())


def ascii_only(text):
    """The ASCII letters and digits of `text` without its accents; `user` where none is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "", plain) or "user"
