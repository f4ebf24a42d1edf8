"""Numbers and their units in a text, so that `1.5 km` is `1500 metres` and not `1.5 kg`."""

from __future__ import annotations

import re
from dataclasses import dataclass

# unit -> (dimension, factor to the dimension's own unit)
_TABLE: dict[str, dict[str, float]] = {
    "length": {"mm": 1e-3, "millimetre": 1e-3, "cm": 1e-2, "centimetre": 1e-2, "m": 1, "metre": 1, "km": 1e3, "kilometre": 1e3,
               "inch": 0.0254, "foot": 0.3048, "feet": 0.3048, "mile": 1609.344},
    "mass": {"mg": 1e-6, "g": 1e-3, "gram": 1e-3, "kg": 1, "kilo": 1, "kilogram": 1, "t": 1e3, "ton": 1e3, "tonne": 1e3, "lb": 0.45359237, "pound": 0.45359237},
    "time": {"ms": 1e-3, "millisecond": 1e-3, "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
             "day": 86400, "week": 604800},
    "months": {"month": 1, "quarter": 3, "year": 12},
    "volume": {"ml": 1e-3, "millilitre": 1e-3, "l": 1, "litre": 1},
    "energy": {"wh": 1, "kwh": 1e3}, "power": {"w": 1, "watt": 1, "kw": 1e3, "kilowatt": 1e3},
    "speed": {"km/h": 1, "kph": 1}, "force": {"n": 1, "newton": 1}, "pressure": {"bar": 1}, "share": {"%": 1, "percent": 1},
    "data": {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}, "temperature": {"degree": 1, "°c": 1, "c": 1},
    "dollars": {"$": 1, "dollar": 1, "usd": 1}, "euros": {"€": 1, "euro": 1, "eur": 1}, "sterling": {"£": 1, "gbp": 1},
}  # fmt: skip
UNITS = {unit: (dimension, factor) for dimension, units in _TABLE.items() for unit, factor in units.items()}
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = {w: 10 * i for i, w in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_WORDS = {**{w: i for i, w in enumerate(_SMALL)}, **_TENS}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
_CLOCK = re.compile(r"(?<![\d.,:])([01]?\d|2[0-4]):([0-5]\d)(?![\d:])")
_DIGITS = re.compile(
    r"(?P<money>[$€£])?\s?(?<![\w.,])(?<![a-z]-)(?P<minus>[-−](?=\d))?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?![\d])"
    r"(?:\s?(?P<scale>hundred|thousand|million|billion)\b)?(?:[\s-]?(?P<unit>km/h|°c|[%°]|[a-z]+))?"
)
_SPELT = re.compile(
    rf"\b(?P<digits>(?:{'|'.join([*_WORDS, *_SCALES])})(?:(?:[\s-]|\sand\s)(?:{'|'.join([*_WORDS, *_SCALES])}))*)\b(?:[\s-](?P<unit>[a-z]+))?"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: in the own unit of the dimension (metre, kilogram, second, month, litre, ...).
        dimension: such as `length`; `clock` for a time of day in minutes; empty for a bare number.
    """

    value: float
    dimension: str


def quantities(text: str) -> list[Quantity]:
    """Return the numbers of a text, in digits or in English words, with their units.

    Example:
        >>> quantities("1.5 km in twenty-five minutes, from 8:30")
        [Quantity(value=510.0, dimension='clock'), Quantity(value=1500.0, dimension='length'), Quantity(value=1500.0, dimension='time')]
    """
    plain = text.lower().replace(" ", " ")
    found = [Quantity(60.0 * int(m[1]) + int(m[2]), "clock") for m in _CLOCK.finditer(plain)]
    plain = _CLOCK.sub(" ", plain)
    for m in _DIGITS.finditer(plain):
        value = float(m["digits"].replace(",", "")) * _SCALES.get(m["scale"] or "", 1) * (-1 if m["minus"] else 1)
        found.append(_with_unit(value, m["money"] or m["unit"]))
    for m in _SPELT.finditer(_DIGITS.sub(" ", plain)):
        spelt = _spelt(re.findall(r"[a-z]+", m["digits"]))
        if spelt is not None:
            found.append(_with_unit(spelt, m["unit"]))
    return found


def agree(given: Quantity, gold: Quantity) -> bool:
    """Whether two quantities are the same number; a unit that only one of them states does not part them."""
    if given.dimension and gold.dimension and given.dimension != gold.dimension:
        return False
    return abs(given.value - gold.value) <= 1e-6 * max(1.0, abs(gold.value))


def _with_unit(value: float, unit: str | None) -> Quantity:
    name = (unit or "").strip()
    for known in (
        name,
        name.removesuffix("s"),
        name.replace("meter", "metre").replace("liter", "litre").removesuffix("s"),
    ):
        if known in UNITS:
            dimension, factor = UNITS[known]
            return Quantity(value * factor, dimension)
    return Quantity(value, "")


def _spelt(names: list[str]) -> float | None:
    """Read `two hundred and five`; None for a scale word by itself (`hundreds`), which is no number."""
    total, part = 0, 0
    if all(n in _SCALES or n == "and" for n in names):
        return None
    for name in names:
        if name in _WORDS:
            part += _WORDS[name]
        elif name == "hundred":
            part = max(1, part) * 100
        elif name in _SCALES:
            total, part = total + max(1, part) * _SCALES[name], 0
    return float(total + part)
