"""Which requests of a batch share a beginning, so that it runs once for all of them.

Knows nothing of networks and caches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mlxrag.model.cache import LEAST
from mlxrag.model.cache_layers import common
from mlxrag.model.generate import Request


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that share a beginning, for one adapter.

    Attributes:
        shared: leading tokens that all of them have in common and that run once; 0 for none.
        requests: the shortest rest first.
    """

    adapter: str | None
    shared: int
    requests: tuple[Request, ...]


def plan(requests: Sequence[Request], adapter: str | None = None) -> list[Group]:
    """Group requests by the beginning they share.

    Sorted by their tokens, requests with a common beginning are neighbours.  A run of neighbours is cut
    wherever they share less than twice what the whole run shares, so that a long common beginning
    (passages) is not given up for a short one (the instruction); what is left over shares the short one.

    Args:
        requests: in any order.
        adapter: the one that requests without an adapter use.

    Returns:
        Groups in an order in which each beginning can go on from the one before.
    """
    found: list[Group] = []
    for name in dict.fromkeys(r.adapter or adapter for r in requests):
        alike = sorted((r for r in requests if (r.adapter or adapter) == name), key=lambda r: (r.prompt, r.id))
        found += _split(name, alike)
    return found


def _split(adapter: str | None, requests: Sequence[Request]) -> list[Group]:
    """Group requests that are sorted by their tokens."""
    # The last token of a prompt always runs with its row.
    pairs = [
        min(common(a.prompt, b.prompt), len(a.prompt) - 1, len(b.prompt) - 1) for a, b in itertools.pairwise(requests)
    ]
    least = min(pairs, default=0)
    bar = max(LEAST, 2 * least)
    if max(pairs, default=0) < bar:
        return [_group(adapter, least if least >= LEAST else 0, requests)]
    runs: list[list[Request]] = [[requests[0]]]
    for request, same in zip(requests[1:], pairs, strict=True):
        if same >= bar:
            runs[-1].append(request)
        else:
            runs.append([request])
    loose = [run[0] for run in runs if len(run) == 1]
    found = [_group(adapter, least if least >= LEAST else 0, loose)] if loose else []
    return found + [group for run in runs if len(run) > 1 for group in _split(adapter, run)]


def _group(adapter: str | None, shared: int, requests: Sequence[Request]) -> Group:
    return Group(adapter, shared, tuple(sorted(requests, key=lambda r: (len(r.prompt), r.id))))
