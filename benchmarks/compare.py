"""Two records of the same benchmarks: which claims became better, stayed the same, became worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOISE = 0.05  # a ratio that moved by less is the same


def verdict(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Print the comparison and return whether any claim is worse.

    A claim moved if its ratio moved by more than 5 % and lies outside the rounds of the other record, both ways.
    """
    counts = {"better": 0, "same": 0, "worse": 0}
    print("\n| benchmark | claim | before | now | |\n|---|---|---:|---:|---|")
    for name, one in new["benchmarks"].items():
        known = old["benchmarks"].get(name, {}).get("claims", {})
        for claim, now in one["claims"].items():
            if claim not in known:
                continue
            word = moved(known[claim], now)
            counts[word] += 1
            print(f"| {name} | {claim} | {known[claim]['ratio']:.2f} | {now['ratio']:.2f} | {word} |")
    machines = [record.get("environment", {}).get("cpu", "") for record in (old, new)]
    if machines[0] != machines[1]:
        print(f"\nThe machines differ ({machines[0]}; {machines[1]}): ratios can be compared, seconds cannot.")
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    print(f"\nVerdict: {'WORSE' if counts['worse'] else 'not worse'} ({told})")
    return counts["worse"] > 0


def moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return `better`, `same` or `worse`.

    Example:
        >>> moved({"ratio": 4, "low": 3.8, "high": 4.2, "target": 3}, {"ratio": 3, "low": 2.9, "high": 3.1, "target": 3})
        'worse'
    """
    apart = (new["ratio"] > old["high"] and new["low"] > old["ratio"]) or (
        new["ratio"] < old["low"] and new["high"] < old["ratio"]
    )
    if not apart or abs(new["ratio"] / old["ratio"] - 1) < NOISE:
        return "same"
    small_is_good = isinstance(new["target"], list) and not new["target"][0]
    return "better" if (new["ratio"] > old["ratio"]) != small_is_good else "worse"
