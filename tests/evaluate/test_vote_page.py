"""The voting page in headless Chromium: a whole round by keyboard, reloads, two raters, names and contrast."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mlxrag.evaluate import votes
from mlxrag.evaluate.human import scores_of, summarize
from mlxrag.evaluate.vote_page import build
from mlxrag.evaluate.votes import SCALES, Item, Session, Vote
from tests.evaluate.kit import answer, ask, passage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = pytest.mark.loopback


def session(tmp_path: Path, count: int = 6, runs: tuple[str, ...] = ("one@v1", "two@v1")) -> Session:
    items = {}
    for i in range(count):
        example = ask(f"Question {i}?", f"answer {i}", gold=(passage(f"Here is answer {i}.", f"d{i}.md"),))
        gold = passage(f"Here is answer {i}.", f"d{i}.md")
        items[example.id] = Item(
            example.id, example,
            {run: answer(f"<script>window.pwned = 1</script> {run} says {i}", gold) for run in runs},
        )  # fmt: skip
    scales = {} if len(runs) > 1 else {"right": SCALES["right"], "useful": SCALES["useful"]}
    return Session(items, runs, scales, tmp_path / "votes.db", 7)


def client(made: Session) -> TestClient:
    return TestClient(build(made), base_url="http://127.0.0.1:8017", follow_redirects=False)


def test_sides_are_balanced_and_orders_differ_between_raters(tmp_path: Path) -> None:
    """Each run stands left in half of the items; a rater's order is the same every time and another's differs."""
    made = session(tmp_path, 20)
    left = [votes.sides(made, "ann", i)[0] for i in votes.order(made, "ann")]
    assert left.count("one@v1") == 10
    assert all(set(left[i : i + 2]) == {"one@v1", "two@v1"} for i in range(0, 20, 2))
    assert votes.order(made, "ann") == votes.order(made, "ann") != votes.order(made, "bob")


def test_a_vote_names_the_run_and_not_the_side(tmp_path: Path) -> None:
    """Left and right are turned back into runs; undo takes the last away; skipping puts an item at the end."""
    made = session(tmp_path, 4)
    first = votes.current(made, "ann")
    assert first is not None
    votes.vote(made, "ann", first, "left", {}, "note", 1200)
    (kept,) = votes.votes(made.path)
    assert kept.choice == kept.left == votes.sides(made, "ann", first)[0] and kept.note == "note"
    assert votes.undo(made, "ann") == first and votes.current(made, "ann") == first
    assert not list(votes.votes(made.path)) and votes.undo(made, "ann") is None
    votes.skip(made, "ann", first)
    assert votes.current(made, "ann") != first
    for _ in range(3):
        votes.vote(made, "ann", votes.current(made, "ann") or "", "tie", {}, "", 10)
    assert votes.current(made, "ann") == first


def test_votes_become_scores_and_a_summary(tmp_path: Path) -> None:
    """Votes are exported as scores of the first run, with agreement, strengths and position bias."""
    made = session(tmp_path, 12)
    for rater in ("ann", "bob"):
        for n, item in enumerate(made.items):
            shown = votes.sides(made, rater, item)
            better = "left" if shown[0] == "one@v1" else "right"
            worse = "right" if better == "left" else "left"
            choice = better if n < 8 else worse if n < 10 else "tie" if n < 11 else "bad"
            votes.vote(made, rater, item, choice, {}, "", 1000)
    found = list(votes.votes(made.path))
    scored = list(scores_of(found, made.runs))
    assert [s.value for s in scored if s.by == "ann"] == [1.0] * 8 + [0.0] * 2 + [0.5, None]
    summary = summarize(found, made.items, made.runs)
    assert summary.alpha["choice"] == pytest.approx(1.0) and summary.pairs[0].kappa == pytest.approx(1.0)
    assert summary.votes == {"ann": 12, "bob": 12} and summary.choices["one@v1"] == 16
    assert {s.system for s in summary.strengths} == set(made.runs)
    assert summary.strengths[0].system == "one@v1" and summary.left is not None


def test_requests_of_other_sites_are_refused(tmp_path: Path) -> None:
    """Another host name, and a vote that comes from another page, are answered 403; a strange vote 404 or 422."""
    made = session(tmp_path)
    with client(made) as web:
        item = votes.current(made, "ann")
        form = {"item": item, "choice": "left", "started": "0"}
        assert web.get("/", headers={"host": "evil.example"}).status_code == 403
        assert web.post("/vote/ann", data=form, headers={"origin": "http://evil.example"}).status_code == 403
        assert web.post("/vote/ann", data={**form, "item": "x"}).status_code == 404
        assert web.post("/vote/ann", data={**form, "choice": "x"}).status_code == 422
        assert not list(votes.votes(made.path))
        policy = web.get("/rate/ann").headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert web.post("/vote/ann", data=form).status_code == 303
    assert len(list(votes.votes(made.path))) == 1


def test_the_page_does_not_name_the_runs(tmp_path: Path) -> None:
    """What is compared is not in the page, but for what the answers themselves say."""
    made = session(tmp_path, runs=("secret-a@v1", "secret-b@v1"))
    blind = {i: Item(i, e.example, {r: answer("the same text") for r in e.answers}) for i, e in made.items.items()}
    with client(Session(blind, made.runs, {}, made.path, 7)) as web:
        assert "secret" not in web.get("/rate/ann").text


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Session, str]]:
    yield from _served(session(tmp_path))


def _served(made: Session) -> Iterator[tuple[Session, str]]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(build(made), port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield made, f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def test_a_round_by_keyboard_with_a_reload_and_a_second_rater(server: tuple[Session, str], browser: Any) -> None:
    """Six votes by keys, a reload in the middle, another rater at the same time; nothing is lost or mixed, no script runs."""
    made, url = server
    outside: list[str] = []
    ann, bob = browser.new_page(), browser.new_page()
    for page in (ann, bob):
        page.on("request", lambda r: outside.append(r.url) if not r.url.startswith(url) else None)
    ann.goto(url)
    ann.keyboard.type("ann")
    ann.keyboard.press("Enter")
    bob.goto(f"{url}rate/bob")
    shown: list[tuple[str, str]] = []
    for n, key in enumerate(["1", "2", "3", "4", "1", "2"]):
        ann.get_by_role("status").filter(has_text=f"{n} of 6 done").wait_for()
        question = ann.get_by_role("heading", level=1).inner_text()
        if n == 2:
            ann.reload()
            assert ann.get_by_role("heading", level=1).inner_text() == question
            ann.keyboard.press("n")
            ann.keyboard.type("a note, 1 2 3")
            ann.keyboard.press("Escape")
        left = ann.get_by_role("region", name="Left answer").inner_text()
        shown.append((key, "one@v1" if "one@v1" in left else "two@v1"))
        ann.keyboard.press("p")
        assert ann.locator(".answer mark").first.is_visible()
        if n == 1:
            bob.keyboard.press("3")
            bob.get_by_role("status").filter(has_text="1 of 6 done").wait_for()
        ann.keyboard.press(key)
    ann.get_by_role("heading", name="All done, thank you").wait_for()
    found = list(votes.votes(made.path))
    mine = [v for v in found if v.rater == "ann"]
    other = {"one@v1": "two@v1", "two@v1": "one@v1"}
    want = [{"1": left, "2": other[left], "3": "tie", "4": "bad"}[key] for key, left in shown]
    assert [v.choice for v in mine] == want and [v.left for v in mine] == [left for _, left in shown]
    assert mine[2].note == "a note, 1 2 3" and len([v for v in found if v.rater == "bob"]) == 1
    ann.keyboard.press("u")
    ann.get_by_role("status").filter(has_text="5 of 6 done").wait_for()
    assert ann.evaluate("window.pwned") is None and not outside


def test_names_focus_and_contrast(server: tuple[Session, str], browser: Any) -> None:
    """Every control has a name, the focus is visible, and text has a contrast of at least 4.5 in light and dark."""
    _, url = server
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(f"{url}rate/ann")
        page.keyboard.press("p")
        names = page.evaluate(
            "[...document.querySelectorAll('button,input:not([type=hidden]),summary')].map(e => (e.labels?.[0]?.innerText || e.innerText || '').trim())"
        )
        assert names and all(names)
        assert len(page.get_by_role("button").all()) == 6 and page.get_by_role("main").count() == 1
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        worst = page.evaluate(CONTRAST)
        assert worst["ratio"] >= 4.5, worst


def test_scales_by_keyboard(tmp_path: Path, browser: Any) -> None:
    """One run on two scales: digits go from scale to scale, Enter saves, every scale is needed."""
    for made, url in _served(session(tmp_path, 2, ("one@v1",))):
        page = browser.new_page()
        page.goto(f"{url}rate/ann")
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        assert not list(votes.votes(made.path))
        page.keyboard.press("5")
        page.keyboard.press("Enter")
        page.get_by_role("status").filter(has_text="1 of 2 done").wait_for()
        (vote,) = votes.votes(made.path)
        assert dict(vote.scales) == {"right": 4, "useful": 5}
        assert [s.value for s in scores_of([vote], made.runs)] == [0.75, 1.0]


def test_votes_outlive_a_killed_server(tmp_path: Path) -> None:
    """A process killed right after a vote has saved it; a torn transaction is not there."""
    import subprocess
    import sys

    code = (
        "import os, sys; from pathlib import Path; from mlxrag.evaluate import votes;"
        "made = votes.Session({'i': None}, ('one@v1', 'two@v1'), {}, Path(sys.argv[1], 'votes.db'), 7);"
        "votes.vote(made, 'ann', votes.current(made, 'ann'), 'tie', {}, '', 5); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root).returncode == -9
    (kept,) = votes.votes(tmp_path / "votes.db")
    assert isinstance(kept, Vote) and kept.choice == "tie"


CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
  let worst = {ratio: 21};
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility() || e.tagName === 'SCRIPT' || e.tagName === 'STYLE') continue;
    const a = light(getComputedStyle(e).color), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst.ratio) worst = {ratio, text: e.textContent.trim().slice(0, 40), tag: e.tagName};
  }
  return worst;
}"""
