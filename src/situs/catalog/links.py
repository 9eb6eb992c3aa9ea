"""What hangs together over pairs, directly or over several steps."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

T = TypeVar("T", bound=Hashable)


def linked(items: Iterable[T], links: Iterable[tuple[T, T]]) -> dict[T, T]:
    """What hangs together: every item with the item that its group is named by.

    Args:
        items: Those that must be in the answer, linked or not.
        links: Pairs of one group; of others than ``items`` too.

    Returns:
        Item → the first item of its group, in the order given.

    Example:
        >>> linked(["a", "b", "c"], [("c", "b")])
        {'a': 'a', 'b': 'b', 'c': 'b'}
    """
    pairs = list(links)
    order = list(dict.fromkeys([*items, *(end for pair in pairs for end in pair)]))
    place = {item: number for number, item in enumerate(order)}
    rows = [place[a] for a, _ in pairs]
    columns = [place[b] for _, b in pairs]
    graph = coo_array((np.ones(len(pairs), bool), (rows, columns)), shape=(len(order),) * 2)
    _, component = connected_components(graph, directed=False)
    first: dict[int, T] = {}
    return {
        item: first.setdefault(int(number), item)
        for item, number in zip(order, component, strict=True)
    }
