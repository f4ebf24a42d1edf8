"""Kinds of values that statements are filled with: people, sums, dates, codes, words from lists.

Each kind is a function of a random generator. Names are mostly made up, so that a reader learns to copy and not to recall.
"""

import random
from collections.abc import Callable
from pathlib import Path

FIRST = """Anna Ben Clara David Emma Felix Grace Henry Ines Jonas Karen Leo Maria Noah Olivia Paul Rosa Samuel Tina Victor Wendy Yusuf Zoe
Amir Bianca Carlos Diana Erik Fatima Georg Hana Ivan Julia Kofi Lena Marco Nadia Omar Petra Ravi Sofia Tomas Uma Vera Walter Xenia Yara Aisha
Boris Chloe Daniel Elena Frank Greta Hugo Irene Jack Katrin Liam Mei Nils Oskar Priya Quentin Ruth Stefan Teresa Ulrich Valerie Wei Aylin Bruno
Cecilia Dmitri Esther Fiona Gabriel Helen Isabel James Kenji Laura Martin Nora Otto Pablo Rachel Simon Tariq Ursula Vincent Alice Robert Susan
Peter Linda George Sarah Thomas Nancy Mark Kevin Brian Laura Alex Robin Sam Jordan Kim Dana Mina Lars Ingrid Mateo Camila Sven Astrid""".split()
LAST = """Keller Okafor Lindqvist Moreau Tanaka Rossi Novak Silva Patel Weber Haddad Kowalski Jensen Murphy Dubois Garcia Schmidt Larsen Popov Yilmaz
Chen Nguyen Ali Brown Costa Fischer Gruber Hansen Ibrahim Jones Kaur Lopez Meyer Nielsen Ortiz Park Quinn Reyes Santos Takahashi Ueda Vogel
Wagner Xu Young Zimmermann Abbott Baker Carter Dalton Ellis Foster Grant Hughes Ingram Jacobs Knight Lambert Mason Norris Osborne Porter Reed
Shaw Turner Vance Walsh Yates Adler Brandt Conti Duarte Eriksen Ferrari Goldberg Holm Ivanova Janssen Koch Lehmann Marin Nakamura Olsen Petrov
Romano Sato Torres Urban Varga Wolff Bauer Cruz Demir Fontaine Huber Kim Lang Moser Neumann Peters Richter Schulz Thorne Vega Winter Bell""".split()
CITIES = """Berlin Lisbon Oslo Vienna Madrid Dublin Prague Warsaw Athens Zurich Toronto Chicago Denver Boston Seattle Austin Lyon Porto Milan Turin Geneva
Hamburg Munich Leipzig Rotterdam Utrecht Antwerp Ghent Bergen Malmo Aarhus Tampere Riga Vilnius Tallinn Krakow Brno Graz Linz Basel Bern Nantes Lille Bristol
Leeds Glasgow Cardiff Cork Galway Nairobi Lagos Accra Cairo Tunis Dubai Mumbai Pune Chennai Singapore Osaka Kyoto Seoul Taipei Manila Sydney Perth Auckland
Montreal Calgary Lima Bogota Quito Santiago Montevideo""".split()
COUNTRIES = """Germany|Portugal|Norway|Austria|Spain|Ireland|Poland|Greece|Switzerland|Canada|Italy|France|the Netherlands|Belgium|Denmark|Finland|Latvia|Estonia|Kenya|Ghana|Egypt|India|Japan|South Korea|Brazil|Chile|Peru|Mexico|Australia|New Zealand|the United Kingdom|the United States""".split(
    "|"
)
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ONSETS = "b d f g h j k l m n p r s t v z br dr fl gr kr pl st tr sk".split()
VOWELS = "a e i o u ai ea io".split()
SMALL = "one two three four five six seven eight nine ten eleven twelve".split()

Kind = Callable[[random.Random], str]


def made_up(r: random.Random) -> str:
    """A pronounceable name that does not exist, "Kradelo"."""
    text = "".join(r.choice(ONSETS) + r.choice(VOWELS) for _ in range(r.choice([2, 2, 3])))
    return text.capitalize() + r.choice(["", "", "n", "x", "l", "r", "s"])


def person(r: random.Random) -> str:
    """First and last name, sometimes with a title, sometimes made up."""
    last = r.choice(LAST) if r.random() < 0.75 else made_up(r)
    first = r.choice(FIRST) if r.random() < 0.9 else made_up(r)
    return f"{r.choice(['Dr. ', 'Ms ', 'Mr '])}{last}" if r.random() < 0.06 else f"{first} {last}"


def number(r: random.Random) -> str:
    """A count of one to five digits, round ones more often."""
    n = r.choice(
        [
            r.randint(2, 20),
            r.randint(2, 99),
            r.randint(10, 99) * 5,
            r.randint(100, 999),
            r.randint(1, 99) * 100,
            r.randint(1000, 99999),
        ]
    )
    return f"{n:,}" if n > 999 and r.random() < 0.6 else str(n)


def money(r: random.Random) -> str:
    """A sum with its currency, "12.50 euros", "$300", "€1,200"."""
    n = r.choice(
        [r.randint(1, 20), r.randint(5, 99), r.randint(1, 40) * 25, r.randint(1, 50) * 100, r.randint(100, 20000)]
    )
    text = f"{n:,}" if r.random() < 0.7 else str(n)
    if n < 200 and r.random() < 0.35:
        text = f"{n}.{r.choice(['50', '99', '90', '95', '20', '75'])}"
    return r.choice(
        [
            f"{text} euros",
            f"{text} dollars",
            f"€{text}",
            f"${text}",
            f"£{text}",
            f"{text} EUR",
            f"{text} pounds",
            f"EUR {text}",
            f"{text} USD",
            f"{text} francs",
        ]
    )


def _span(r: random.Random, unit: str, high: int) -> str:
    n = r.randint(1, high) if r.random() < 0.6 else r.choice([2, 3, 5, 10, 14, 15, 20, 30, 60, 90])
    word = SMALL[n - 1] if n <= 12 and r.random() < 0.4 else str(n)
    middle = r.choice(["working ", "business ", "calendar "]) if unit == "day" and r.random() < 0.35 else ""
    return f"{word} {middle}{unit}{'' if n == 1 else 's'}"


def date(r: random.Random) -> str:
    """A date in one of six spellings, with or without its year."""
    d, m, y = r.randint(1, 28), r.randint(1, 12), r.randint(2015, 2031)
    month = MONTHS[m - 1]
    return r.choice(
        [
            f"{d} {month}",
            f"{month} {d}",
            f"{d} {month} {y}",
            f"{month} {d}, {y}",
            f"{y}-{m:02d}-{d:02d}",
            f"{d:02d}.{m:02d}.{y}",
            f"{d}{'th' if d not in (1, 2, 3, 21, 22, 23) else {1: 'st', 2: 'nd', 3: 'rd'}[d % 10]} {month}",
        ]
    )


def time(r: random.Random) -> str:
    """A time of day, "14:30", "9 a.m.", "noon"."""
    h, m = r.randint(6, 22), r.choice([0, 0, 15, 30, 45])
    p = h % 12 or 12
    half = "a.m." if h < 12 else "p.m."
    return (
        r.choice(
            [
                f"{h}:{m:02d}",
                f"{h:02d}:{m:02d}",
                f"{p} {half}" if m == 0 else f"{p}:{m:02d} {half}",
                f"{p}{f':{m:02d}' if m else ''}{half[0]}m",
            ]
        )
        if r.random() < 0.95
        else r.choice(["noon", "midnight"])
    )


def hours(r: random.Random) -> str:
    """Opening hours, "8:00 to 17:30"."""
    a, b = r.randint(6, 11), r.randint(13, 22)
    x, y = r.choice(["00", "30"]), r.choice(["00", "30", "15"])
    return r.choice(
        [
            f"{a}:{x} to {b}:{y}",
            f"{a}:{x}-{b}:{y}",
            f"{a} a.m. to {b - 12} p.m.",
            f"{a:02d}:{x} to {b}:{y}",
            f"{a}:{x} and {b}:{y}",
        ]
    )


def phone(r: random.Random) -> str:
    """A phone number or an extension."""
    a, b = r.randint(100, 999), r.randint(1000, 9999)
    return r.choice(
        [
            f"+{r.randint(20, 99)} {r.randint(10, 99)} {a} {b}",
            f"{r.randint(200, 999)}-{a}-{b}",
            f"0{a} {b}{r.randint(10, 99)}",
            f"extension {b}",
            f"ext. {a}",
            str(b),
            f"0800 {a} {a}",
        ]
    )


def email(r: random.Random) -> str:
    """A mail address of a person or of an office."""
    who = r.choice(
        [
            "support",
            "help",
            "hr",
            "it",
            "office",
            "info",
            "billing",
            "security",
            "orders",
            "events",
            "press",
            "jobs",
            "travel",
            "it-help",
            "data-protection",
            r.choice(FIRST).lower(),
            f"{r.choice(FIRST)}.{r.choice(LAST)}".lower(),
        ]
    )
    return f"{who}@{made_up(r).lower()}.{r.choice(['com', 'example', 'org', 'net', 'io', 'eu'])}"


def code(r: random.Random) -> str:
    """An identifier, "HR-214", "E4071", "TX90b"."""
    letters = "".join(r.choice("ABCDEFGHKLMNPRSTUVWXZ") for _ in range(r.choice([1, 2, 2, 3])))
    n = str(r.randint(1, 9999)).zfill(r.choice([1, 2, 3, 4]))
    return r.choice([f"{letters}-{n}", f"{letters}{n}", f"{n}-{letters}", f"{letters}-{n}-{r.choice('ABCX')}", f"#{n}"])


def version(r: random.Random) -> str:
    """A version number."""
    text = f"{r.randint(0, 14)}.{r.randint(0, 24)}"
    return r.choice([text, f"{text}.{r.randint(0, 19)}", f"v{text}", f"version {text}", f"{text}.{r.randint(0, 9)}"])


def percent(r: random.Random) -> str:
    """A share."""
    n = r.choice([r.randint(1, 99), r.randint(1, 19) * 5, r.randint(1, 9) * 10])
    return r.choice([f"{n}%", f"{n}%", f"{n} %", f"{n} percent", f"{n}.{r.randint(1, 9)}%"])


def room(r: random.Random) -> str:
    """A place inside a building."""
    n = r.randint(1, 499)
    return r.choice(
        [
            f"room {n}",
            f"room {r.choice('ABCDE')}{n}",
            f"building {r.choice('ABCDEFGH')}",
            f"room {r.randint(0, 9)}.{n:02d}",
            f"hall {r.randint(1, 12)}",
            f"desk {n}",
            f"the {made_up(r)} room",
        ]
    )


def address(r: random.Random) -> str:
    """A street and its number."""
    street = r.choice(
        [
            f"{r.choice(LAST)} Street",
            f"{made_up(r)} Road",
            f"{r.choice(LAST)}strasse",
            f"{made_up(r)} Avenue",
            f"{r.choice(['Mill', 'Harbour', 'Station', 'Park', 'Church', 'Bridge', 'King'])} {r.choice(['Lane', 'Street', 'Road', 'Square'])}",
        ]
    )
    return f"{street} {r.randint(1, 180)}" if r.random() < 0.5 else f"{r.randint(1, 180)} {street}"


def product(r: random.Random) -> str:
    """A product's name: made up, a pair of words, or with a number."""
    noun = r.choice(
        [
            "lamp",
            "desk",
            "chair",
            "kettle",
            "router",
            "backpack",
            "printer",
            "bottle",
            "jacket",
            "drill",
            "tent",
            "bike",
            "headset",
            "monitor",
            "keyboard",
            "camera",
            "speaker",
            "heater",
            "pump",
            "scale",
            "toaster",
            "blender",
            "helmet",
            "shelf",
            "clock",
        ]
    )
    name = made_up(r)
    return r.choice(
        [
            f"{name} {noun}",
            name,
            f"{name} {r.randint(1, 9)}00",
            f"{name} {noun}",
            f"{name} {r.choice(['Pro', 'Mini', 'Plus', 'One', 'Air', 'Go', 'Lite'])}",
            f"{r.choice(['oak', 'steel', 'travel', 'folding', 'office', 'garden', 'solar', 'kids', 'wireless'])} {noun}",
        ]
    )


def words(r: random.Random) -> str:
    """Two words of a made-up name with a common noun, a project or a team."""
    return f"{made_up(r)} {r.choice(['project', 'team', 'platform', 'initiative', 'program', 'group', 'service', 'board'])}"


def size(r: random.Random) -> str:
    """Length, weight, volume or area with its unit."""
    n = r.choice([str(r.randint(1, 99)), f"{r.randint(0, 30)}.{r.randint(1, 9)}", str(r.randint(1, 60) * 10)])
    return f"{n} {r.choice(['cm', 'm', 'mm', 'kg', 'g', 'litres', 'km', 'square metres', 'GB', 'MB', 'watts', 'grams', 'metres', 'kilograms', 'kWh', 'TB', 'inches', 'ml'])}"


def temperature(r: random.Random) -> str:
    """A temperature."""
    n = r.choice([r.randint(-30, 40), r.randint(40, 300)])
    return r.choice([f"{n} °C", f"{n}°C", f"{n} degrees", f"{n} degrees Celsius"])


KINDS: dict[str, Kind] = {
    "person": person, "first": lambda r: r.choice(FIRST), "made_up": made_up, "number": number, "money": money, "date": date, "time": time,
    "hours": hours, "phone": phone, "email": email, "code": code, "version": version, "percent": percent, "room": room, "address": address,
    "product": product, "words": words, "size": size, "temperature": temperature,
    "city": lambda r: r.choice(CITIES) if r.random() < 0.8 else made_up(r),
    "country": lambda r: r.choice(COUNTRIES),
    "company": lambda r: made_up(r) + r.choice(["", "", " Ltd", " GmbH", " Group", " Labs", " Foods", " Logistics", " Systems", " Insurance", " Bank"]),
    "weekday": lambda r: r.choice(DAYS), "month": lambda r: r.choice(MONTHS),
    "year": lambda r: str(r.randint(1950, 2030)),
    "days": lambda r: _span(r, "day", 30), "weeks": lambda r: _span(r, "week", 20), "months": lambda r: _span(r, "month", 24),
    "years": lambda r: _span(r, "year", 10), "hrs": lambda r: _span(r, "hour", 48), "minutes": lambda r: _span(r, "minute", 60),
    "span": lambda r: _span(r, r.choice(["day", "day", "week", "month", "hour", "minute", "year"]), 20),
    "count": lambda r: r.choice([str(r.randint(2, 40)), str(r.randint(2, 12)), r.choice(SMALL[1:])]),
    "daycount": lambda r: r.choice([str(r.randint(2, 40)), r.choice(SMALL[1:])]) + r.choice([" days", " days", " working days"]),
    "hourcount": lambda r: f"{r.randint(4, 60)}{r.choice(['', '', '.5'])} hours",
    "ordinal": lambda r: r.choice(["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "ground", "top"]),
    "url": lambda r: r.choice(["", "www.", "intranet.", "help.", "portal."]) + made_up(r).lower() + r.choice([".com", ".example", ".org", ".net"]) + r.choice(["", "/start", "/help", "/forms", "/booking"]),
    "file": lambda r: r.choice(["report", "config", "settings", "invoice", "backup", "notes", "export", made_up(r).lower()]) + r.choice([".toml", ".csv", ".json", ".pdf", ".xlsx", ".yaml", ".txt", ".md", ".log"]),
    "flag": lambda r: "--" + r.choice(["force", "verbose", "dry-run", "output", "port", "limit", "cache", "quiet", "seed", "format", made_up(r).lower(), f"{made_up(r).lower()}-{r.choice(['dir', 'size', 'mode'])}"]),
}  # fmt: skip


def read_lists(path: Path) -> dict[str, Kind]:
    """Kinds that are lists of words: lines `name: one | two | three`, each a uniform choice."""
    found: dict[str, Kind] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        options = [o.strip() for o in rest.split("|") if o.strip()]
        if options:
            found[name.strip()] = lambda r, options=options: r.choice(options)  # type: ignore[misc]
    return found
