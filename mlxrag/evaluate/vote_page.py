"""The local page on which people vote: FastAPI and one template, no build step, nothing from the network.

Served on the loopback interface only.  A request must name that host (so that no other site's name can be pointed
here), and a vote must come from this page.  What models wrote is escaped, and no script but the page's own may run.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from mlxrag.data.browse import marked
from mlxrag.evaluate import votes
from mlxrag.evaluate.page import environment
from mlxrag.evaluate.votes import CHOICES, Session

NAME = 40
"""Longest name of a rater."""
SEE_OTHER = 303


def build(session: Session) -> FastAPI:
    """Return the application of a session."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = environment().get_template("vote.html")

    def shown(name: str, **values: Any) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        text = page.render(view=name, nonce=nonce, session=session, total=len(session.items), **values)
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        return HTMLResponse(
            text,
            headers={"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "same-origin"},
        )

    @app.middleware("http")
    async def only_here(request: Request, call_next: Any) -> Response:
        host = request.headers.get("host", "").rsplit(":", 1)[0]
        origin = request.headers.get("origin")
        foreign = origin is not None and origin != f"http://{request.headers.get('host')}"
        if host not in {"127.0.0.1", "localhost", "[::1]"} or (request.method == "POST" and foreign):
            return Response("This page answers only to itself.", 403)
        answer: Response = await call_next(request)
        return answer

    @app.get("/")
    def welcome(rater: str = "") -> Response:
        if rater.strip():
            return RedirectResponse(f"/rate/{quote(rater.strip()[:NAME], safe='')}", SEE_OTHER)
        return shown("welcome", raters=votes.raters(session))

    @app.get("/rate/{rater}")
    def rate(rater: str) -> Response:
        rater = _checked(rater)
        item = votes.current(session, rater)
        done = votes.progress(session, rater)
        if item is None:
            return shown("done", rater=rater, done=done)
        return shown("vote", rater=rater, done=done, started=int(time.time() * 1000), **_laid(session, rater, item))

    @app.post("/vote/{rater}")
    async def vote(rater: str, request: Request) -> Response:
        rater = _checked(rater)
        given = await _form(request)
        item = given.get("item", "")
        if item not in session.items:
            raise HTTPException(404, "no such question")
        spent = max(0, int(time.time() * 1000) - int(given.get("started", "0") or 0))
        note = given.get("note", "")[:2000]
        if len(session.runs) > 1:
            if given.get("choice") not in CHOICES:
                raise HTTPException(422, "choose left, right, tie or bad")
            votes.vote(session, rater, item, given["choice"], {}, note, spent)
        else:
            points = {
                s: int(given[f"scale-{s}"])
                for s in session.scales
                if given.get(f"scale-{s}", "") in {"1", "2", "3", "4", "5"}
            }
            if len(points) < len(session.scales):
                raise HTTPException(422, "give every scale 1 to 5")
            votes.vote(session, rater, item, "", points, note, spent)
        return RedirectResponse(f"/rate/{quote(rater, safe='')}", SEE_OTHER)

    @app.post("/skip/{rater}")
    async def skip(rater: str, request: Request) -> Response:
        rater = _checked(rater)
        item = (await _form(request)).get("item", "")
        if item in session.items:
            votes.skip(session, rater, item)
        return RedirectResponse(f"/rate/{quote(rater, safe='')}", SEE_OTHER)

    @app.post("/undo/{rater}")
    async def undo(rater: str) -> Response:
        votes.undo(session, _checked(rater))
        return RedirectResponse(f"/rate/{quote(rater, safe='')}", SEE_OTHER)

    return app


def _checked(rater: str) -> str:
    name = rater.strip()[:NAME]
    if not name:
        raise HTTPException(404, "give a name")
    return name


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; parsed here, since FastAPI's own needs another library."""
    body = await request.body()
    if len(body) > 100_000:
        raise HTTPException(413, "too long")
    return {key: values[0] for key, values in parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).items()}


def _laid(session: Session, rater: str, item: str) -> Mapping[str, Any]:
    """What the page shows of an item: the answers by side, their passages with the evidence marked; no names of runs."""
    entry = session.items[item]
    quotes = entry.example.evidence or entry.example.answers
    shown = []
    for side, run in zip(
        ("Left", "Right") if len(session.runs) > 1 else ("The",), votes.sides(session, rater, item), strict=True
    ):
        answer = entry.answers[run]
        passages = [
            {
                "n": n,
                "source": h.passage.source,
                "place": h.passage.place,
                "pieces": list(marked(h.passage.text, quotes)),
            }
            for n, h in enumerate(answer.hits, 1)
        ]
        shown.append({"side": side, "text": answer.text, "passages": passages})
    return {"item": entry, "answers": shown, "gold": entry.example.answers}
