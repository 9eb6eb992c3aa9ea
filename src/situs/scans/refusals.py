"""Why a scan is refused: stable codes, each with an explanation and a remedy."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from situs.errors import ScanRefused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reason:
    """What a code means and what its reader can do.

    Attributes:
        explanation: What is wrong with such a file, in one clause.
        remedy: What to do about it, in Python.
        shell: What to do about it on the command line, where that differs.
    """

    explanation: str
    remedy: str
    shell: str = ""

    def remedy_in(self, interface: Literal["python", "shell"]) -> str:
        """The remedy in the words of the interface that somebody uses."""
        return self.shell if interface == "shell" and self.shell else self.remedy


_SPLITS = "'dcm2niix -o NEW FOLDER' writes a NIfTI file for each part"

REASONS = MappingProxyType(
    {
        "missing-file": Reason("nothing is at this path", "check the path, or repair the link"),
        "empty-file": Reason("the file holds no bytes", "copy or download it again"),
        "truncated-file": Reason("the file ends before its voxels do", "copy or download it again"),
        "unreadable-file": Reason(
            "the file is damaged, or is not what its name says", "write it anew from its source"
        ),
        "no-pixels": Reason(
            "the header of an image without its pixels",
            "export the image with its pixels, or leave the file out",
        ),
        "not-an-image": Reason(
            "the file is in no format that situs reads",
            "leave it out; if it is a scan, convert it to NIfTI",
        ),
        "crashed": Reason(
            "reading the file ended the process that read it",
            "leave it out, or export it anew without compression",
        ),
        "absurd-header": Reason(
            "the header promises more voxels than the file can hold",
            "write the file anew from its source",
        ),
        "too-large": Reason(
            "the scan exceeds the memory that reading one scan may take",
            "crop or resample it, or raise max_bytes",
            "crop or resample it",
        ),
        "outside-file": Reason(
            "the header points to a data file in another folder",
            "keep header and data in one folder, or use one file (.nrrd, .mha)",
        ),
        "several-files": Reason(
            "the voxels are spread over several files",
            "write them into one file (NRRD, MetaImage or NIfTI)",
        ),
        "bad-spacing": Reason(
            "a voxel's size is zero, negative, not a number, or one that no scanner has",
            "correct the voxel size in the header, or export the scan again",
        ),
        "singular-affine": Reason(
            "the affine maps the volume onto a plane or is not finite",
            "correct the header's orientation, or export the scan again",
        ),
        "sheared-affine": Reason(
            "the axes are not perpendicular",
            "resample the scan to a grid with right angles (3D Slicer: Resample Scalar Volume)",
        ),
        "bad-orientation": Reason(
            "the direction vectors or the quaternion are not those of a rotation",
            "correct the header's orientation, or export the scan again",
        ),
        "no-geometry": Reason(
            "position, orientation or pixel spacing is missing",
            "export the series with geometry; pictures without a place (X-ray, captures) leave out",
        ),
        "one-voxel-thick": Reason(
            "an axis has a single voxel; this is a picture, not a volume",
            "give the whole series, or pass planes=True",
            "give the whole series, or accept single slices with --planes",
        ),
        "four-dimensional": Reason(
            "the file holds several volumes (time, echo, diffusion)",
            "choose one with volume=0, 1, … or take volume='all' as channels",
            "take each as a scan with --volumes each, or the first with --volumes first",
        ),
        "no-such-volume": Reason(
            "the chosen volume is not in the file",
            "choose one that the file holds; volumes count from 0",
        ),
        "non-finite": Reason(
            "voxels are NaN or infinite", "replace them, or find the step that wrote them"
        ),
        "constant-image": Reason("all voxels are equal", "leave it out"),
        "label-map": Reason(
            "the image has few values in large patches, as a label map has",
            "nothing, unless it is a scan: then read it with situs.read_scan",
            "nothing, unless it is a scan: then store it with its full range of values",
        ),
        "colour-image": Reason("the image has colours", "leave it out, or convert it to grey"),
        "unsupported-dtype": Reason(
            "voxels are of a kind without order (complex, vector, structure)",
            "store magnitude or one component",
        ),
        "unsupported-dicom": Reason(
            "a kind of DICOM object that situs does not read", "export it as a plain image series"
        ),
        "unsupported-compression": Reason(
            "no decoder at hand for this DICOM transfer syntax",
            "decompress it first (gdcmconv --raw, dcmdjpeg)",
        ),
        "burned-in": Reason(
            "the header says that text is burnt into the pixels (BurnedInAnnotation), perhaps a "
            "name",
            "mask the text, or take the scan with burned_in='accept'",
            "mask the text, or take the scan with --burned-in accept",
        ),
        "localizer": Reason("the series is a localizer (scout)", "leave it out"),
        "several-series": Reason(
            "the folder holds more than one image series",
            "pass series=… with one of the hashes, or name one series' folder",
            "name one series' folder; 'situs scan' takes each series as a scan",
        ),
        "mixed-patients": Reason(
            "slices of several patients or studies carry one series identifier",
            "put the files of each patient and study into a folder of their own",
        ),
        "mixed-frames": Reason(
            "slices of one volume lie in different frames of reference, between which positions "
            "cannot be compared",
            "export the series again, or give the files of one frame of reference alone",
        ),
        "mixed-orientation": Reason(
            "the slices of one series are not parallel",
            f"split the series by orientation: {_SPLITS}",
        ),
        "mixed-size": Reason(
            "the slices of one series differ in rows, columns or pixel spacing",
            f"split the series by size: {_SPLITS}",
        ),
        "missing-slice": Reason(
            "slices are missing inside the stack", "export the whole series again"
        ),
        "irregular-spacing": Reason(
            "the slices are not evenly spaced along a line",
            f"export the series again; or split it: {_SPLITS}",
        ),
        "duplicate-slices": Reason(
            "some positions hold several different slices and others do not",
            f"export the whole series again; or split it by acquisition: {_SPLITS}",
        ),
        "mixed-acquisitions": Reason(
            "two acquisitions interleave, and nothing tells whether they are one stack or two",
            f"split the series by acquisition: {_SPLITS}",
        ),
        "mixed-rescale": Reason(
            "some slices of the series lack the rescale that the others have",
            "export the series again with RescaleSlope and RescaleIntercept in every slice",
        ),
        "missing-attribute": Reason(
            "an attribute that says how pixels are stored is missing, and does not follow from "
            "the others",
            "export the series again with the attribute that is named",
        ),
        "timed-out": Reason(
            "reading the file took longer than any file should",
            "leave it out, or export it anew without compression",
        ),
        "absurd-spacing": Reason(
            "the voxel size makes the prepared scan absurdly large or small; it may be in another "
            "unit",
            "correct the voxel size in the header, or choose another spacing",
            "correct the voxel size in the header, or choose another --spacing",
        ),
        "not-prepared": Reason(
            "the scan was read but could not be preprocessed",
            "look at this scan on its own with situs.store.preprocess",
            "look at this scan in a viewer, and leave it out",
        ),
        "label-geometry": Reason(
            "the label lies on another grid than its image",
            "resample the label to the image's grid, or correct its header",
        ),
        "label-values": Reason(
            "the label map's values are not class numbers", "round or binarise it"
        ),
        "unknown-class": Reason(
            "the label map holds a class that the dataset does not declare",
            "declare it, or correct the label",
        ),
        "channel-count": Reason(
            "the scan has another number of channels than the model or its data set names",
            "give one file with as many volumes as the model was trained on, or a file a channel "
            "(NAME_0000, NAME_0001, …)",
        ),
        "channel-geometry": Reason(
            "the channels of one case lie on different grids", "resample them to one grid"
        ),
        "not-dicom": Reason(
            "the scan is no DICOM series of single-frame images, which a DICOM-SEG refers to",
            "predict it without DICOM-SEG, or give the series that it was made from",
            "predict it without --dicom-seg, or give the series that it was made from",
        ),
    }
)


def refuse(reason: str, path: str | Path, detail: str = "") -> ScanRefused:
    """The error for ``reason``, to be raised by the caller.

    Args:
        reason: A key of :data:`REASONS`.
        path: The file or folder, as the user named it.
        detail: What exactly is wrong, made of numbers and situs's own words only; the
            code's explanation where empty.
    """
    return ScanRefused(reason, path, detail or REASONS[reason].explanation)


def unreadable(path: str | Path, error: Exception) -> ScanRefused:
    """The error for a file that a library failed on, to be raised by the caller.

    What the library said may repeat the header, so only its kind is logged, for whoever mends it.
    """
    log.debug("a reader stopped with %s", type(error).__name__)
    return refuse("unreadable-file", path, "its header or its voxels do not follow the format")
