"""Role words are words: of other words that hold their letters nothing is taken."""

from __future__ import annotations

import pytest

from situs.scans.privacy import role_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("breast1", ""),
        ("cat2", ""),
        ("relaxt1", ""),
        ("compost medicine spre Max", ""),
        ("along axis, 2 chest, T10", ""),
        ("non-contrast", ""),
        ("w/o contrast", ""),
        ("with contrast", "post"),
        ("Ax T1 MPRAGE +C, Mr. Smith", "t1 post ax"),
        ("3DT1_pre", "t1 pre"),
        ("sT2W_TSE_sag", "t2 sag"),
        ("T2FLAIR", "t2 flair"),
        ("T1wPost", "t1 post"),
        ("SagT2FS", "t2 sag"),
        ("cine_2ch_short-axis", "cine sax 2ch"),
        ("4-chamber", "4ch"),
    ],
)
def test_words_are_taken_whole(text: str, words: str) -> None:
    assert role_words(text) == words
