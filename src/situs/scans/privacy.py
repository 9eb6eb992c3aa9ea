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
# separators turned into spaces; "_" and "-" stand between words as a space does.
_ROLES: tuple[tuple[str, str], ...] = (
    ("t1", r"t1(?!\d)|mp ?rage|bravo"),
    ("t2", r"t2(?!\d)"),
    ("flair", r"flair"),
    ("pd", r"\bpd(?=\b|w|fs)|proton dens"),
    ("stir", r"\bstir\b"),
    ("dwi", r"\bdwi\b|\bdti\b|diffusion"),
    ("adc", r"\badc\b"),
    ("swi", r"\bswi\b"),
    ("bold", r"\bbold\b"),
    ("cine", r"\bcine|trufi|\bfiesta|\bssfp"),
    ("lge", r"\blge\b|late gad"),
    ("post", r"post(?![a-z])|\+ ?c\b|\bgd\b|\bgad|contrast|\bce\b"),
    ("pre", r"pre(?![a-z])"),
    ("sax", r"\bsax?\b|short ?axis"),
    ("lax", r"\blax\b|long ?axis"),
    ("2ch", r"\b2 ?ch|two ?chamber"),
    ("3ch", r"\b3 ?ch|three ?chamber|\blvot\b"),
    ("4ch", r"\b4 ?ch|four ?chamber"),
    ("sag", r"\bsag"),
    ("cor", r"\bcor(?=\b|onal)"),
    ("ax", r"\bax(?=\b|ial)|\btra(?=\b|ns)"),
    ("localizer", r"locali[sz]er|\bscout|plane loc"),
)
_PATTERNS = tuple((word, re.compile(pattern)) for word, pattern in _ROLES)


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


def role_words(*texts: str) -> str:
    """The role words recognised in free text, separated by spaces; never the text itself.

    Examples:
        >>> role_words("Ax T1 MPRAGE +C, Mr. Smith")
        't1 post ax'
    """
    text = re.sub(r"[_\-./,;:()\[\]\s]+", " ", " ".join(texts).lower())
    return " ".join(word for word, pattern in _PATTERNS if pattern.search(text))


def _salt() -> bytes:
    return os.environ.get("SITUS_HASH_SALT", "situs").encode()


@lru_cache(maxsize=65536)
def _slow_digest(identifier: str, issuer: str, salt: bytes) -> str:
    text = f"patient\x00{identifier}\x00{issuer}".encode()
    return hashlib.scrypt(text, salt=salt, n=2**12, r=8, p=1, dklen=_DIGITS // 2).hex()
