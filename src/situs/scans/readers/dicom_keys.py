"""What in a DICOM header tells the volumes of one series apart: a table, and how it is filled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

Value = tuple[float | str, ...]


@dataclass(frozen=True)
class Key:
    """One row of the table.

    Attributes:
        name: For notes and refusals.
        tolerance: Numbers that differ by no more than this share of the larger are one value.
        floor: The size below which the share is taken of this instead.
        weak: Says when or in which file a slice came, not what it shows: equal pictures that
            differ in weak keys alone are copies.
        ranks: Values that differ from place to place still order the slices of each place.
    """

    name: str
    tolerance: float = 0.0
    floor: float = 0.0
    weak: bool = False
    ranks: bool = False


KEYS = (
    Key("temporal position"),
    Key("echo time", 1e-3),
    Key("echo number"),
    Key("inversion time", 1e-3),
    Key("flip angle", 1e-3),
    Key("b-value", 0.02),
    Key("diffusion kind"),
    Key("gradient direction", 0.02, floor=1.0),
    Key("trigger time", 1e-3, ranks=True),
    Key("acquisition number", ranks=True),
    Key("repetition time", 1e-3),
    Key("tube voltage", 1e-3),
    Key("kernel"),
    Key("cardiac phase", 1e-3),
    Key("complex component"),
    Key("contrast agent"),
    Key("sequence name"),
    Key("image type"),
    Key("frame reference time", weak=True, ranks=True),
    Key("acquisition time", weak=True, ranks=True),
    Key("instance number", weak=True, ranks=True),
    Key("object", weak=True),
    Key("frame number", weak=True, ranks=True),
)
"""In order of precedence: volumes are told apart, and ordered, by the first that does.

DimensionIndexValues of enhanced objects stand before all of them: they are the writer's own
answer (PS3.3 C.7.6.17).
"""

GRADIENT = next(k for k, key in enumerate(KEYS) if key.name == "gradient direction")
ACQUISITION = next(k for k, key in enumerate(KEYS) if key.name == "acquisition number")
MISSING: Value = (-1.0,)


def classic_keys(dataset: Dataset) -> tuple[Value, ...]:
    """The values of :data:`KEYS` for a single-frame object."""
    b_value, direction = _private_diffusion(dataset)
    if "DiffusionBValue" in dataset:
        b_value = number(dataset, "DiffusionBValue")
    if "DiffusionGradientOrientation" in dataset:
        direction = numbers(dataset, "DiffusionGradientOrientation")
    return (
        number(dataset, "TemporalPositionIdentifier"),
        number(dataset, "EchoTime"),
        number(dataset, "EchoNumbers"),
        number(dataset, "InversionTime"),
        number(dataset, "FlipAngle"),
        b_value,
        words(dataset, "DiffusionDirectionality"),
        direction,
        number(dataset, "TriggerTime"),
        number(dataset, "AcquisitionNumber"),
        number(dataset, "RepetitionTime"),
        number(dataset, "KVP"),
        words(dataset, "ConvolutionKernel"),
        number(dataset, "NominalPercentageOfCardiacPhase"),
        words(dataset, "ComplexImageComponent"),
        words(dataset, "ContrastBolusAgent"),
        words(dataset, "SequenceName"),
        words(dataset, "ImageType"),
        number(dataset, "FrameReferenceTime"),
        _time(dataset),
        number(dataset, "InstanceNumber"),
        (),
        (),
    )


def frame_keys(dataset: Dataset, group: Callable[[str], Dataset], frame: int) -> tuple[Value, ...]:
    """The values of :data:`KEYS` for a frame of an enhanced object.

    Args:
        dataset: The object.
        group: Finds a functional group of the frame by its sequence's name.
        frame: Its index.
    """
    content = group("FrameContentSequence")
    diffusion = group("MRDiffusionSequence")
    gradient = first(diffusion, "DiffusionGradientDirectionSequence")
    temporal = number(content, "TemporalPositionIndex")
    if temporal == MISSING:
        temporal = number(group("TemporalPositionSequence"), "TemporalPositionTimeOffset")
    kind = group("MRImageFrameTypeSequence") or group("CTImageFrameTypeSequence")
    timing = group("MRTimingAndRelatedParametersSequence")
    heart = group("CardiacSynchronizationSequence")
    began = str(content.get("FrameAcquisitionDateTime") or "")
    return (
        temporal,
        number(group("MREchoSequence"), "EffectiveEchoTime"),
        MISSING,
        numbers(group("MRModifierSequence"), "InversionTimes"),
        number(timing, "FlipAngle"),
        number(diffusion, "DiffusionBValue"),
        words(diffusion, "DiffusionDirectionality"),
        numbers(gradient, "DiffusionGradientOrientation"),
        number(heart, "NominalCardiacTriggerDelayTime"),
        number(content, "FrameAcquisitionNumber"),
        number(timing, "RepetitionTime"),
        number(group("CTXRayDetailsSequence"), "KVP"),
        words(group("CTReconstructionSequence"), "ConvolutionKernel"),
        number(heart, "NominalPercentageOfCardiacPhase"),
        words(kind, "ComplexImageComponent"),
        (),
        (),
        words(kind, "FrameType") or words(dataset, "ImageType"),
        number(content, "FrameReferenceTime"),
        _moment(began[:8], began[8:]) if began else _time(dataset),
        number(dataset, "InstanceNumber"),
        (str(dataset.get("SOPInstanceUID", "")),),
        (float(frame),),
    )


def index_values(content: Dataset) -> Value:
    """DimensionIndexValues of a frame; those that say where it lies differ from place to place."""
    return numbers(content, "DimensionIndexValues")


def first(dataset: Dataset, name: str) -> Dataset:
    """The first item of a sequence, an empty dataset where there is none."""
    items = dataset.get(name)
    try:
        return items[0] if items else Dataset()
    except (TypeError, KeyError, IndexError):
        return Dataset()


def number(dataset: Dataset, name: str) -> Value:
    """A number as a key's value, :data:`MISSING` where there is none."""
    value: Any = dataset.get(name)
    if value is None or value == "":
        return MISSING
    return _floats([value]) or MISSING


def numbers(dataset: Dataset, name: str) -> tuple[float, ...]:
    """Numbers as a key's value, empty where there are none."""
    return _floats(listed(dataset, name))


def words(dataset: Dataset, name: str) -> Value:
    """Words in capitals as a key's value, empty where there are none."""
    return tuple(str(value).upper() for value in listed(dataset, name))


def listed(dataset: Dataset, name: str) -> list[Any]:
    """The values of an element, one or many."""
    value: Any = dataset.get(name)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes | int | float) else list(value)


def _floats(values: list[Any]) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def _time(dataset: Dataset) -> Value:
    """Date and time of acquisition as numbers that order, as far as they are known."""
    whole = str(dataset.get("AcquisitionDateTime") or "")
    if len(whole) > 8:
        return _moment(whole[:8], whole[8:])
    for kind in ("Acquisition", "Content"):
        time = str(dataset.get(f"{kind}Time") or "")
        if time:
            return _moment(str(dataset.get(f"{kind}Date") or "0"), time)
    return MISSING


def _moment(date: str, time: str) -> Value:
    # An offset from UTC ("+0100") is the same for all of a series.
    clock = time.split("+", maxsplit=1)[0].split("-", maxsplit=1)[0].replace(":", "")
    return _floats([date.replace(".", ""), clock or "0"]) or MISSING


def _private_diffusion(dataset: Dataset) -> tuple[Value, tuple[float, ...]]:
    """b-value and gradient direction where Siemens, GE and Philips wrote them before the standard.

    Elements as documented in the vendors' conformance statements; each is looked up with its
    private creator, so that another vendor's element of the same number is not taken for it.
    """
    if "DiffusionBValue" in dataset and "DiffusionGradientOrientation" in dataset:
        return MISSING, ()
    vendor = str(dataset.get("Manufacturer") or "").upper()
    if "SIEMENS" in vendor:
        block = 0x0019, "SIEMENS MR HEADER"
        return _private(dataset, *block, 0x0C)[:1] or MISSING, _private(dataset, *block, 0x0E)
    if "GE" in vendor:
        b_value = _private(dataset, 0x0043, "GEMS_PARM_01", 0x39)[:1]
        axes = [_private(dataset, 0x0019, "GEMS_ACQU_01", 0xBB + axis) for axis in range(3)]
        # GE adds a multiple of 10⁹ as a flag.
        return tuple(b % 1e9 for b in b_value) or MISSING, tuple(v for axis in axes for v in axis)
    if "PHILIPS" in vendor:
        b_value = _private(dataset, 0x2001, "Philips Imaging DD 001", 0x03)[:1]
        axes = [_private(dataset, 0x2005, "Philips MR Imaging DD 001", 0xB0 + a) for a in range(3)]
        return b_value or MISSING, tuple(v for axis in axes for v in axis)
    return MISSING, ()


def _private(dataset: Dataset, group: int, creator: str, element: int) -> tuple[float, ...]:
    try:
        value: Any = dataset.private_block(group, creator)[element].value
    except KeyError:
        return ()
    if isinstance(value, bytes):  # implicit VR: the vendor's dictionary is not at hand
        text = value.decode("ascii", "replace").strip("\0 ")
        return _floats(text.split("\\"))
    return _floats([value] if isinstance(value, str | int | float) else list(value))
