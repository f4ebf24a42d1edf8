"""Makes questions that the bundled reader cannot answer: German data sheets of laboratory devices, all invented.

    python benchmarks/laboratory.py OUT_DIRECTORY

Writes train.jsonl, valid.jsonl and test.jsonl, in the format of `mlxrag data import --format mlxrag`.  Devices, people,
rooms and numbers of the three parts have nothing in common but chance.  The bundled reader has seen English only, and
sentences, not data sheets; its answers are to be copied from the sheet, so a small adapter can learn it.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from mlxrag.data.example import Example, example, to_row
from mlxrag.rag.document import Passage, document_id, passage_id

COUNTS = {"train": 300, "valid": 10, "test": 40}
SHEETS, ASKED = 2, 5
"""Sheets in front of a question, and questions about them; one more asks for what none of them says."""
KINDS = ("Zentrifuge", "Autoklav", "Spektrometer", "Trockenschrank", "Mikroskop", "Pipettierroboter", "Analysenwaage",
         "Inkubator", "Magnetrührer", "Gefrierschrank", "Abzug", "Rotationsverdampfer", "Wärmebad", "Laminarbox")  # fmt: skip
SYLLABLES = ("ka", "vel", "tor", "mi", "ras", "lun", "be", "xan", "dro", "fi", "gel", "sor", "pra", "hu", "nek", "ol")
FIRST = ("Anke", "Björn", "Carla", "Detlef", "Elif", "Fritz", "Gesa", "Hamid", "Inga", "Jonas", "Katrin", "Lars", "Meike",
         "Nuri", "Olga", "Paul", "Ruth", "Sven", "Tilda", "Uwe", "Vera", "Wolf", "Yasmin")  # fmt: skip
LAST = ("Ahrens", "Brück", "Claßen", "Dörr", "Ehlers", "Fuchs", "Göbel", "Hartung", "Ihde", "Jansen", "Kühn", "Lorenz",
        "Möller", "Nolte", "Özkan", "Petry", "Quandt", "Riedel", "Schütte", "Thoma", "Ulmer", "Voss", "Wendt", "Zeller")  # fmt: skip
MONTHS = ("Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember")  # fmt: skip
GOODS = ("Vollentsalztes Wasser", "Isopropanol 70 %", "Neutralreiniger N8", "Natronlauge 2 %", "Zitronensäure 5 %", "Ethanol 80 %")  # fmt: skip

# Name of the field, ways to write it on a sheet, ways to ask for it.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "room": (("Standort: {}", "Steht in {}", "Raum: {}"),
             ("Wo steht {d}?", "In welchem Raum finde ich {d}?", "Wo ist der Standort von {d}?")),
    "person": (("Verantwortlich: {}", "Ansprechperson: {}", "Zuständig ist {}"),
               ("Wer ist für {d} verantwortlich?", "Wer ist zuständig für {d}?", "An wen wende ich mich wegen {d}?")),
    "service": (("Wartung: alle {}", "Wartungsintervall: {}", "Zu warten alle {}"),
                ("Wie oft wird {d} gewartet?", "In welchem Abstand ist {d} zu warten?", "Was ist das Wartungsintervall von {d}?")),
    "checked": (("Letzte Prüfung: {}", "Geprüft am {}", "Kalibriert am {}"),
                ("Wann wurde {d} zuletzt geprüft?", "Von wann ist die letzte Prüfung von {d}?", "Wann war {d} zuletzt bei der Prüfung?")),
    "limit": (("Höchsttemperatur: {}", "Max. Temperatur: {}", "Nicht über {} erhitzen"),
              ("Wie heiß darf {d} höchstens werden?", "Was ist die Höchsttemperatur von {d}?", "Bis zu welcher Temperatur geht {d}?")),
    "serial": (("Seriennummer: {}", "Ser.-Nr. {}", "Gerätenummer: {}"),
               ("Welche Seriennummer hat {d}?", "Wie lautet die Gerätenummer von {d}?", "Was ist die Nummer von {d}?")),
    "fuse": (("Absicherung: {}", "Sicherung: {}", "Abgesichert mit {}"),
             ("Wie ist {d} abgesichert?", "Welche Sicherung hat {d}?", "Womit ist {d} abgesichert?")),
    "cleaner": (("Reinigung: {}", "Reinigen mit: {}", "Reinigungsmittel: {}"),
                ("Womit wird {d} gereinigt?", "Welches Reinigungsmittel nehme ich für {d}?", "Womit mache ich {d} sauber?")),
    "price": (("Anschaffungspreis: {}", "Preis: {}", "Gekauft für {}"),
              ("Was hat {d} gekostet?", "Wie teuer war {d}?", "Für wie viel wurde {d} gekauft?")),
}  # fmt: skip


def value(field: str, rng: random.Random) -> str:
    """Draw what stands in a field."""
    if field == "room":
        return f"{rng.choice('ABCDEFG')}{rng.randint(0, 4)}.{rng.randint(1, 39):02}"
    if field == "person":
        return f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    if field == "service":
        return f"{rng.choice([2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 18, 24, 30, 36])} {rng.choice(['Monate', 'Wochen', 'Tage'])}"
    if field == "checked":
        return f"{rng.randint(1, 28)}. {rng.choice(MONTHS)} {rng.randint(2019, 2026)}"
    if field == "limit":
        return f"{rng.randint(8, 92) * 5} °C"
    if field == "serial":
        return f"{''.join(rng.choices('BCDFGHKLMNPRSTVWX', k=2))}-{rng.randint(1000, 99999)}"
    if field == "fuse":
        return f"{rng.choice([2, 4, 6, 10, 13, 16, 20, 25, 32])} A {rng.choice(['träge', 'flink', 'mittelträge'])}"
    if field == "cleaner":
        return rng.choice(GOODS)
    return f"{rng.randint(3, 480) * 50} Euro"


def sheet(rng: random.Random) -> tuple[Passage, dict[str, str], str, list[str]]:
    """One data sheet: passage, what it says by field, the device, and the fields it leaves out."""
    name = "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize()
    device = f"{rng.choice(KINDS)} {name} {rng.randint(2, 990)}"
    fields = rng.sample(list(FIELDS), rng.randint(4, 5))
    said = {field: value(field, rng) for field in fields}
    lines = [rng.choice(FIELDS[field][0]).format(said[field]) for field in fields]
    text = rng.choice(["\n", "\n", "; ", " | "]).join(lines)
    source = f"labor/{device.replace(' ', '-').lower()}.md"
    document = document_id(source, text)
    passage = Passage(passage_id(document, 0, len(text)), document, source, device, "Datenblatt", 0, len(text), text)
    return passage, said, device, [field for field in FIELDS if field not in said]


def examples(count: int, rng: random.Random) -> Iterator[Example]:
    """Questions over `count` groups of sheets."""
    for _ in range(count):
        sheets = [sheet(rng) for _ in range(SHEETS)]
        passages = tuple(s[0] for s in sheets)
        for _ in range(ASKED):
            number = rng.randrange(SHEETS)
            _, said, device, _ = sheets[number]
            field = rng.choice(list(said))
            question = rng.choice(FIELDS[field][1]).format(d=f"{_article(device)} {device}")
            yield example(question, (said[field],), passages, "laboratory", tags=(field,))
        _, _, device, missing = sheets[rng.randrange(SHEETS)]
        field = rng.choice(missing)
        question = rng.choice(FIELDS[field][1]).format(d=f"{_article(device)} {device}")
        yield example(question, (), passages, "laboratory", tags=("unanswerable",))


def write(out: Path) -> None:
    """Write the three parts into a directory."""
    out.mkdir(parents=True, exist_ok=True)
    for number, (part, count) in enumerate(COUNTS.items()):
        seen: dict[str, Example] = {e.id: e for e in examples(count, random.Random(number))}
        lines = (json.dumps(to_row(e), ensure_ascii=False) + "\n" for e in seen.values())
        (out / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")


def _article(device: str) -> str:
    first = device.partition(" ")[0]
    if first.endswith(("e", "waage", "box")):
        return "die"
    return "das" if first in ("Spektrometer", "Mikroskop", "Wärmebad") else "der"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
