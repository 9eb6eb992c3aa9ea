"""Identifiers are hashed at the door; nothing else of a header's text goes further.

A hash is stable, so that scans of one patient, study or series can be grouped. Identifiers of
patients are short and can be guessed, so theirs is slow to compute; whoever wants certainty sets
the environment variable ``SITUS_HASH_SALT`` to a secret and keeps it for all of one's catalogs.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache

_DIGITS = 16  # 64 bit: no collision to fear among millions of series

# Only the words on the left can leave a free-text field. Text is matched in lower case with
# separators turned into spaces; "_" and "-" stand between words as a space does. Every word begins
# where a word of the text begins, or behind what is often written without a space: 3DT1, T2FLAIR,
# T1wPost, SagT2 (but not breasT1).
_START = r"(?:\b|(?<=\b[23]d)|(?<=\bt[12])|(?<=\bt[12]w)|(?<=\bsag)|(?<=\bcor)|(?<=\bax))"
_PLANE = r"(?=\b|t[12]|pd|%s)"
_WITHOUT = r"(?<!\bno )(?<!\bnon )(?<!\bw o )(?<!\bwithout )"
_ROLES: tuple[tuple[str, str], ...] = (
    ("t1", r"[es]?t1(?!\d)|mp ?rage|bravo"),
    ("t2", r"[es]?t2(?!\d)"),
    ("flair", r"flair"),
    ("pd", r"pd(?=\b|w|fs)|proton dens"),
    ("stir", r"stir\b"),
    ("dwi", r"dwi\b|dti\b|diffusion"),
    ("adc", r"adc\b"),
    ("swi", r"swi\b"),
    ("bold", r"bold\b"),
    ("cine", r"cine|trufi|fiesta|ssfp"),
    ("lge", r"lge\b|late gad"),
    ("post", rf"post(?![a-z])|gd\b|gad|{_WITHOUT}contrast|ce\b"),
    ("post", r"(?<=\+)c\b|(?<=\+ )c\b"),
    ("pre", r"pre(?![a-z])"),
    ("sax", r"sax?\b|short ?axis"),
    ("lax", r"lax\b|long ?axis"),
    ("2ch", r"2 ?ch(?=\b|\d|amber)|two ?chamber"),
    ("3ch", r"3 ?ch(?=\b|\d|amber)|three ?chamber|lvot\b"),
    ("4ch", r"4 ?ch(?=\b|\d|amber)|four ?chamber"),
    ("sag", "sag" + _PLANE % "itt?al"),
    ("cor", "cor" + _PLANE % "onal"),
    ("ax", "ax" + _PLANE % "ial" + r"|tra(?=\b|ns)"),
    ("localizer", r"locali[sz]er|scout|plane loc"),
)
_PATTERNS = tuple((word, re.compile(f"{_START}(?:{pattern})")) for word, pattern in _ROLES)
# What anonymisers write into PatientID of everybody.
_PLACEHOLDER = re.compile(
    r"(anon([yi][a-z]*)?|de-?identified|unknown|none|null|n/?a|no ?id|removed|patient|subject"
    r"|x+|0+|\*+|-+)",
    re.I,
)


def digest(kind: str, *parts: object) -> str:
    """Hash of an identifier that cannot be guessed, such as a UID or a path.

    Args:
        kind: What is hashed; the same text under another kind gives another hash.
        parts: The identifier. All empty gives the empty string, "unknown".
    """
    texts = [str(part) for part in parts]
    if not any(texts):
        return ""
    # A path may hold bytes that are no UTF-8.
    identifier = "\x00".join((kind, *texts)).encode(errors="surrogateescape")
    hashed = hashlib.blake2b(identifier, key=_salt()[:64])
    return hashed.hexdigest()[:_DIGITS]


def digest_patient(identifier: str, issuer: str = "") -> str:
    """Hash of a patient's identifier, slow on purpose (about 10 ms, remembered)."""
    identifier = identifier.strip()
    return _slow_digest(identifier, issuer.strip(), _salt()) if identifier else ""


def is_placeholder(identifier: str) -> bool:
    """Whether a patient's identifier is one that anonymisers give to all patients.

    Examples:
        >>> is_placeholder("ANONYMOUS"), is_placeholder("ANON0042")
        (True, False)
    """
    return _PLACEHOLDER.fullmatch(identifier.strip()) is not None


def role_words(*texts: str) -> str:
    """The role words recognised in free text, separated by spaces; never the text itself.

    Examples:
        >>> role_words("Ax T1 MPRAGE +C, Mr. Smith")
        't1 post ax'
    """
    text = re.sub(r"[_\-./,;:()\[\]\s]+", " ", " ".join(texts).lower())
    return " ".join(dict.fromkeys(word for word, found in _PATTERNS if found.search(text)))


def _salt() -> bytes:
    return os.environ.get("SITUS_HASH_SALT", "situs").encode()


@lru_cache(maxsize=65536)
def _slow_digest(identifier: str, issuer: str, salt: bytes) -> str:
    text = f"patient\x00{identifier}\x00{issuer}".encode()
    return hashlib.scrypt(text, salt=salt, n=2**12, r=8, p=1, dklen=_DIGITS // 2).hex()
