"""Advice as one HTML page: no script, no network, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from mlxrag.evaluate.page import environment
from mlxrag.experiment.advise import Advised
from mlxrag.experiment.draw import points, scatter, seconds, size
from mlxrag.experiment.rules import RULES


def advice_page(found: Advised, title: str) -> str:
    """Return the page of what the runs of a workspace come to."""
    made = environment()
    assert made.loader is not None
    made.loader = ChoiceLoader([PackageLoader("mlxrag.experiment", "templates"), made.loader])
    made.filters |= {"points": points, "seconds": seconds, "size": size}
    charts = {}
    for questions in dict.fromkeys(p.questions for p in found.places):
        measured = [
            {"system": p.system, "quality": p.quality, "low": p.low, "high": p.high, "seconds": p.alone, "peak": p.peak,
             "dominated_by": list(p.dominated)}
            for p in found.places
            if p.questions == questions and p.quality is not None and p.alone is not None
        ]  # fmt: skip
        charts[questions] = scatter(measured)
    return made.get_template("advice.html").render(a=found, title=title, charts=charts, rules=RULES)


def to_json(found: Advised) -> dict[str, Any]:
    """Return the advice as plain JSON values."""
    return {**asdict(found), "rules": [rule_row(r) for r in RULES]}


def rule_row(rule: Any) -> Mapping[str, str]:
    """Return a rule as words."""
    return {"name": rule.name, "looks": rule.looks, "says": rule.says, "source": rule.source}
