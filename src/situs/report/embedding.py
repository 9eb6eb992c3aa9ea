"""The page beside a table of features: a map of the scans, and who is near whom."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from situs import text
from situs.files import write_file
from situs.report import style
from situs.report.page import render, settings
from situs.report.svg import Tile, tile
from situs.scans.aliases import Names
from situs.transfer.embed import read_embedding

_LISTED = 200
_NEAREST = 3
_FEW = 20  # scans; of fewer, neighbourhoods say no more than components do
_NEIGHBOURS = 15
_CAPTIONS = {
    "pca": "Principal components of the scans' mean features, every scale and feature brought to "
    "mean 0 and spread 1. Near points look alike to the encoder; the map shows {share} of the "
    "variance.",
    "umap": "UMAP of the scans' mean features, every scale and feature brought to mean 0 and "
    "spread 1. Near points look alike to the encoder; distances between groups and their sizes "
    "say nothing. The two largest principal components would show {share} of the variance.",
}


def write_page(table: str | Path, out: str | Path | None = None, *, names: bool = False) -> Path:
    """Write the page of a table that ``situs embed`` wrote.

    Args:
        table: The Parquet file.
        out: The page; beside the table, with its name, by default.
        names: Show the scans' names; by default short ids, which ``names.csv`` beside the table
            tells apart.

    Raises:
        RunError: If the table is not one.
    """
    found, provenance = read_embedding(table)
    frame = found.to_pandas()
    features = np.stack(frame["feature"].to_numpy()).astype(np.float64)
    means = pd.DataFrame(features).groupby(frame["scan"].to_numpy(), sort=False).mean()
    modality = frame.groupby("scan", sort=False)["modality"].first().loc[means.index].tolist()
    called = Names(shown=names)
    for name in means.index:
        called.add(str(name))
    ids = [called.of(str(name)) for name in means.index]
    spread = means.to_numpy().std(0)
    unit = (means.to_numpy() - means.to_numpy().mean(0)) / np.where(spread > 0, spread, 1.0)
    places, explained = _components(unit)
    umap = _umap(unit)
    rows = _nearest(unit, ids, modality)
    path = Path(out) if out is not None else Path(table).with_suffix(".html")
    share = f"{100 * explained:.0f} %" if len(ids) > 2 else "all"
    page = render(
        "embedding.html.j2",
        scans=rows[:_LISTED],
        left_out=max(0, len(rows) - _LISTED),
        width=int(features.shape[1]),
        weights=text.printable(str(provenance["weights"])),
        sentence=_sentence(rows, modality),
        tiles=[
            _map(places, modality, "component", f"two components, {share} of the variance")
            if umap is None
            else _map(umap, modality, "", "UMAP")
        ],
        caption=_CAPTIONS["pca" if umap is None else "umap"].format(share=share),
        provenance=settings(provenance, called),
    )
    write_file(path, page)
    called.save(Path(table).parent)
    return path


def _components(unit: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Two principal components ``(N, 2)``, and the share of the variance in them."""
    left, values, _ = np.linalg.svd(unit, full_matrices=False)
    places = np.zeros((len(unit), 2))
    count = min(2, len(values))
    places[:, :count] = left[:, :count] * values[:count]
    total = float((values**2).sum())
    return places, float((values[:count] ** 2).sum() / total) if total else 1.0


def _umap(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Places ``(N, 2)`` that keep neighbours together; None for few scans, or without umap-learn.

    McInnes et al., arXiv 1802.03426, by its own package, with a fixed seed.
    """
    if len(unit) < _FEW or find_spec("umap") is None:
        return None
    threads = torch.get_num_threads()
    from umap import UMAP  # noqa: PLC0415 - an extra, which compiles as it is imported

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed leaves one thread
        made = UMAP(n_neighbors=_NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(unit)
    # Numba has set the threads of OpenMP, which are torch's, too: other sums would follow.
    torch.set_num_threads(threads)
    return np.asarray(made, dtype=np.float64)


def _nearest(
    unit: npt.NDArray[np.float64], names: list[str], modality: list[str]
) -> list[dict[str, Any]]:
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    direction = unit / np.where(lengths > 0, lengths, 1.0)
    likeness = direction @ direction.T
    np.fill_diagonal(likeness, -np.inf)
    rows = []
    for number, name in enumerate(names):
        order = np.argsort(-likeness[number])[: min(_NEAREST, len(names) - 1)]
        near = [{"name": names[i], "likeness": f"{likeness[number, i]:.2f}"} for i in order]
        same = [modality[i] == modality[number] for i in order[:1]]
        rows.append({"name": name, "modality": modality[number], "nearest": near, "same": same})
    return rows


def _sentence(rows: list[dict[str, Any]], modality: list[str]) -> str:
    """Whether neighbours share their modality, beside what chance would give."""
    kinds = pd.Series(modality).value_counts()
    if len(kinds) < 2:
        return f"All scans are {text.printable(modality[0])}."
    share = np.mean([row["same"][0] for row in rows])
    n = len(rows)
    chance = float((kinds * (kinds - 1)).sum() / (n * (n - 1)))
    return (
        f"The nearest scan is of the same modality for {100 * share:.0f}\u00a0% of the scans; "
        f"by chance it would be for {100 * chance:.0f}\u00a0%."
    )


def _map(places: npt.NDArray[np.float64], modality: list[str], axis: str, by: str) -> Tile:
    with style.figure(560, 420) as figure:
        axes = style.axes(figure)
        axes.grid(alpha=0.6)
        for number, kind in enumerate(dict.fromkeys(modality)):
            chosen = np.array([m == kind for m in modality])
            axes.plot(
                places[chosen, 0],
                places[chosen, 1],
                style.SERIES_MARKERS[number % len(style.SERIES_MARKERS)],
                color=style.SERIES[(number + 1) % len(style.SERIES)],
                markersize=4.5,
                alpha=0.8,
                markeredgewidth=0,
                label=text.printable(kind),
            )
        if axis:
            axes.set_xlabel(f"first {axis}")
            axes.set_ylabel(f"second {axis}")
        else:  # places on such a map have no unit, and directions no meaning
            axes.set_xticklabels([])
            axes.set_yticklabels([])
        axes.legend(loc="best")
        return tile(figure, f"Map of {len(places)} scans by {by}")
