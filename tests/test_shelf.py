"""The order of imports is the order of the list in docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def shelf() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.split("```")[1]
    return [line.split()[0] for line in block.strip().splitlines()]


def place(path: str, order: list[str]) -> int | None:
    """The position of a file: its own line if it has one, else that of the longest room line it is in."""
    if path in order:
        return order.index(path)
    rooms = [line for line in order if line.endswith("/") and path.startswith(line)]
    return order.index(max(rooms, key=len)) if rooms else None


def file_of(module: str) -> str | None:
    path = Path(*module.split("."))
    if (ROOT / path).with_suffix(".py").is_file():
        return str(path.with_suffix(".py"))
    if (ROOT / path / "__init__.py").is_file():
        return str(path / "__init__.py")
    return None


def imports(path: Path, package: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            found += [f"{base}.{alias.name}" if file_of(f"{base}.{alias.name}") else base for alias in node.names]
    return [name for name in found if name.split(".")[0] == "mlxrag"]


def files() -> list[Path]:
    return sorted(p for p in (ROOT / "mlxrag").rglob("*.py"))


def test_every_file_has_a_place_and_imports_only_from_above() -> None:
    """Each file stands on the shelf and imports nothing that stands below it."""
    order = shelf()
    faults = []
    for path in files():
        rel = str(path.relative_to(ROOT))
        if path.name in {"__init__.py", "__main__.py"}:
            continue
        here = place(rel, order)
        if here is None:
            faults.append(f"{rel} is not on the shelf")
            continue
        for module in imports(path, ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])):
            target = file_of(module)
            if target is None or Path(target).name == "__init__.py":
                continue
            there = place(target, order)
            if there is None or there > here or (there == here and order[here] == target and target != rel):
                faults.append(f"{rel} imports {target}, which stands below it")
    assert not faults, "\n".join(faults)


def test_every_line_of_the_shelf_that_names_a_file_exists_or_is_a_room() -> None:
    """The list does not name files that are gone."""
    missing = [line for line in shelf() if not line.endswith("/") and not (ROOT / line).is_file()]
    assert not missing, missing


def test_only_the_named_rooms_import_the_heavy_packages() -> None:
    """mlx_lm belongs to model and train, mlflow to track.py, click to cli."""
    owners = {"mlx_lm": ("model/", "train/"), "mlflow": ("track",), "click": ("cli/",)}
    faults = []
    for path in files():
        rel = str(path.relative_to(ROOT / "mlxrag"))
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                allowed = owners.get(name.split(".")[0])
                if allowed and not rel.startswith(allowed):
                    faults.append(f"{rel} imports {name}")
    assert not faults, "\n".join(faults)
