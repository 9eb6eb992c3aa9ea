"""Whose a scan is, where its file does not say but its path does."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from situs.errors import SitusError, setting
from situs.scans.formats import without_suffix
from situs.scans.names import SUBJECT, channel_of, patient_in_name
from situs.scans.privacy import digest_patient

if TYPE_CHECKING:
    from situs.catalog.measure import Entry

_LOG = logging.getLogger(__name__)
_SUBJECT = re.compile(rf"({SUBJECT.pattern})(?:[_.]|$)")
_CHANNELS = 10
_MANY_STUDIES = 4
_SHOWN = 5  # paths in a warning


def patient_in(path: str) -> str:
    """Hash of BIDS's subject, ``sub-<label>``; empty where the path names none.

    The label of a file's name goes before that of the innermost folder. Subjects of one label
    count as one wherever they lie: it is known too late which collections are copies of another.

    Args:
        path: Relative to the collection's root, with ``/``.
    """
    *folders, name = PurePosixPath(path).parts or ("",)
    named = [_SUBJECT.match(name), *(_SUBJECT.fullmatch(f) for f in reversed(folders))]
    return next((digest_patient(found[1]) for found in named if found), "")


def with_cases(entries: Sequence[Entry]) -> list[Entry]:
    """Let channels of one case, ``case_0000`` and ``case_0001`` of nnU-Net, have one patient.

    Args:
        entries: All of a catalog; those with a patient stay as they are.
    """
    channels: dict[tuple[str, str], list[tuple[int, Entry]]] = defaultdict(list)
    for entry in entries:
        path = PurePosixPath(entry.path)
        found = channel_of(without_suffix(path.name))
        if found is not None and entry.accepted and not entry.patient:
            channels[str(path.parent), found[0]].append((found[1], entry))
    patients = {
        entry.key: digest_patient(case)
        for (_, case), members in channels.items()
        if _are_channels(members)
        for _, entry in members
    }
    return [
        entry.model_copy(update={"patient": patients[entry.key]})
        if entry.key in patients
        else entry
        for entry in entries
    ]


def patient_pattern(given: str) -> re.Pattern[str]:
    """What ``--patient`` says, ready to be searched for.

    Raises:
        SitusError: If it is no regular expression.
    """
    try:
        return re.compile(given)
    except re.error as error:
        raise SitusError(
            f"{setting('patient')} {given!r} is no regular expression: {error}"
        ) from None


def with_patients(entries: Sequence[Entry], pattern: re.Pattern[str]) -> list[Entry]:
    """Let a scan be of the patient that its path names; where it names none, of whom it was.

    Args:
        entries: All of a catalog.
        pattern: Searched for in an entry's path; see
            :func:`~situs.scans.names.patient_in_name`.

    Raises:
        SitusError: If it matches no path.
    """
    accepted = [e for e in entries if e.accepted]
    named = {e.key: found for e in accepted if (found := patient_in_name(pattern, e.path))}
    if accepted and not named:
        raise SitusError(
            f"{setting('patient')} {pattern.pattern!r} matches none of {len(accepted)} paths, the "
            f"first of them {accepted[0].path}"
        )
    if len(named) < len(accepted):
        _LOG.warning(
            "%s matches %d of %d scans; the others are of whom their files say, or alone",
            setting("patient"),
            len(named),
            len(accepted),
        )
    return [
        e.model_copy(update={"patient": digest_patient(named[e.key])}) if e.key in named else e
        for e in entries
    ]


def one_patient_warning(scans: Iterable[tuple[str, str]]) -> str:
    """What to say where several studies are all one patient's; empty where they are not.

    One person can have several studies; a collection of nothing else is more likely one whose
    identifiers were overwritten. Then nothing can be held out, or its scores mean nothing.

    Args:
        scans: Patient and study of each, empty where unknown.
    """
    known = [(patient, study) for patient, study in scans if patient and study]
    studies = {study for _, study in known}
    if len(studies) < _MANY_STUDIES or len({patient for patient, _ in known}) > 1:
        return ""
    return (
        f"all {len(studies)} studies carry one patient identifier; an anonymiser may have "
        "overwritten it. As they count as one patient, none can be held out: give each patient "
        "an identifier of their own, and scan again."
    )


def burned_in_warning(scans: Iterable[tuple[str, bool]]) -> str:
    """What to say where pixels may show a name; empty where no header says so.

    Args:
        scans: Path of each, and whether its header says that text is burnt into the pixels.
    """
    paths = list(dict.fromkeys(path for path, burned_in in scans if burned_in))
    if not paths:
        return ""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return (
        f"text is burnt into the pixels of {len(paths)} scan{'s' if len(paths) != 1 else ''}, "
        f"their headers say (BurnedInAnnotation): {', '.join(paths[:_SHOWN])}{more}. It may be a "
        "name, and pictures in reports show it; 'situs scan --burned-in refuse' leaves such scans "
        "out."
    )


def _are_channels(members: Sequence[tuple[int, Entry]]) -> bool:
    """Whether scans numbered alike are channels of one case, and not cases of a cohort.

    Channels have one grid, as nnU-Net demands, and are few: ``scan_0000`` to ``scan_0499`` are
    500 cases even where all of them were brought into one space.
    """
    numbers = {number for number, _ in members}
    first = members[0][1]
    return (
        len(numbers) > 1
        and max(numbers) < _CHANNELS
        and all(
            entry.shape == first.shape and np.allclose(entry.affine, first.affine, atol=1e-3)
            for _, entry in members
        )
    )
