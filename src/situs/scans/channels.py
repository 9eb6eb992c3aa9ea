"""Files and channels of one scan: on one grid, each with its own modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from situs.scans.read import read_scan
from situs.scans.refusals import refuse
from situs.scans.scan import Scan


def read_channels(paths: Sequence[Path], modalities: Sequence[str | None] = ()) -> Scan:
    """Read files of one grid as the channels of one scan.

    Args:
        paths: A file a channel, or one with all of them.
        modalities: Of each channel, where known better than from its file; see
            :func:`with_modalities`.

    Raises:
        ScanRefused: From the reader, ``channel-geometry`` or ``channel-count``.
    """
    if len(paths) == 1:
        return with_modalities(read_scan(paths[0], "all"), modalities, paths[0])
    scans = [read_scan(path, "all") for path in paths]
    first = scans[0]
    for scan, path in zip(scans[1:], paths[1:], strict=True):
        check_same_grid(first, scan, path, "channel-geometry")
    own = tuple(modality for scan in scans for modality in scan.channel_modalities)
    joined = replace(first, array=np.concatenate([s.array for s in scans]), modalities=own)
    return with_modalities(joined, modalities, paths[0])


def with_modalities(scan: Scan, modalities: Sequence[str | None], path: Path) -> Scan:
    """A scan with what is known of its channels; None leaves what the file says.

    Args:
        scan: As read.
        modalities: Of each channel; if all are the same they are those of any number of channels.
        path: For the error.

    Raises:
        ScanRefused: ``channel-count`` for different modalities of another number of channels.
    """
    count = scan.array.shape[0]
    if modalities and len(modalities) != count:
        if len(set(modalities)) > 1:
            raise refuse(
                "channel-count",
                path,
                f"has {count} channel(s), the data set names {len(modalities)}",
            )
        modalities = (modalities[0],) * count
    own = scan.channel_modalities
    told = tuple(m or o for m, o in zip(modalities or own, own, strict=True))
    return replace(scan, modality=told[0], modalities=told if len(set(told)) > 1 else ())


def same_grid(a: Scan, b: Scan) -> float:
    """How far apart two scans put their voxels, as a share of the smallest voxel side.

    Infinite where their shapes differ.
    """
    if a.shape != b.shape:
        return float("inf")
    last = np.array(a.shape) - 1
    corners = np.stack(np.meshgrid(*[[0, n] for n in last], indexing="ij"), -1).reshape(-1, 3)
    difference = a.affine - b.affine
    moved_mm = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(moved_mm, axis=1).max() / min(a.spacing))


def check_same_grid(image: Scan, other: Scan, path: Path, reason: str) -> None:
    """Refuse the scan at ``path`` where it does not lie on the image's voxels.

    Raises:
        ScanRefused: With the reason given.
    """
    apart = same_grid(image, other)
    if image.shape != other.shape:
        raise refuse(reason, path, f"shape is {other.shape}, the image's {image.shape}")
    if apart > 0.1:
        raise refuse(reason, path, f"voxels lie up to {apart:.1f} voxels from the image's")
