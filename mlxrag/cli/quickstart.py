"""`mlxrag quickstart`: the whole loop, as the commands that a person would type.

Each step is one real command in its own process, so that nothing it held stays in memory, a crash takes only the step
along, and what was printed can be repeated. Finished steps are written down with what they answered; the same call
goes on after the last of them.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlxrag.cli.options import workspace_option

NAME = "quickstart"


@dataclass(frozen=True, slots=True)
class Loop:
    """Where the loop stands.

    Attributes:
        root: the workspace.
        file: what is written after each step.
        done: answers of the finished steps, by title.
        quiet: print nothing but the last answer.
    """

    root: Path
    file: Path
    done: dict[str, Any]
    quiet: bool

    def step(self, title: str, why: str, *args: str) -> dict[str, Any]:
        """Run one command unless it was run, and return what it answered.

        Raises:
            MlxragError: the command failed; what it said is the message.
        """
        from mlxrag.cli import show
        from mlxrag.errors import MlxragError
        from mlxrag.workspace import write_json

        if not self.quiet:
            show.say(f"\n{title}: {why}")
            show.say("  $ mlxrag " + shlex.join(args))
        if title in self.done:
            if not self.quiet:
                show.say("  done before")
            return dict(self.done[title])
        started = time.monotonic()
        command = [sys.executable, "-m", "mlxrag", *args, "--workspace", str(self.root), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                out, _ = child.communicate()
            except KeyboardInterrupt:
                child.wait(10)
                raise
        if child.returncode == 130:
            raise KeyboardInterrupt
        if child.returncode not in (0, 3):
            raise MlxragError(
                f"the step {title!r} failed; what is finished is kept, run mlxrag quickstart again to go on"
            )
        answer: dict[str, Any] = json.loads(out)
        self.done[title] = answer
        write_json(self.file, self.done)
        if not self.quiet:
            show.say(f"  {time.monotonic() - started:.0f} s")
        return answer


@click.command()
@click.argument("docs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", default="reader", show_default=True, help="Model to ask and to train.")
@click.option("--num-questions", default=240, show_default=True, type=click.IntRange(40), help="Questions to make.")
@click.option("--iters", default=300, show_default=True, type=click.IntRange(1), help="Batches to train on.")
@click.option("--again", is_flag=True, help="Begin anew instead of going on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@workspace_option
def quickstart(
    docs: tuple[Path, ...],
    model: str,
    num_questions: int,
    iters: int,
    again: bool,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """The whole loop once: ask, make questions, train, compare.

    DOCS are files or folders; the bundled documents unless given. Stopped in the middle, the same command goes on.
    """
    from mlxrag.cli import show
    from mlxrag.cli.quickstart_page import write_page
    from mlxrag.errors import BadInput
    from mlxrag.workspace import open_workspace, write_text

    paths = [p.expanduser().resolve() for p in docs] or [
        Path(__file__).resolve().parent.parent / "samples" / "documents"
    ]
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder")
    root = open_workspace(workspace).root
    key = hashlib.sha256(json.dumps([*map(str, paths), model, num_questions, iters]).encode()).hexdigest()[:12]
    folder = root / NAME / key
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "steps.json"
    done = json.loads(file.read_text()) if file.is_file() and not again else {}
    loop, name = Loop(root, file, done, as_json), f"{NAME}-{key[:6]}"

    ingested = loop.step("Read", "your files become passages in an index", "ingest", *map(str, paths), "--index", name)
    made = loop.step(
        "Question", "questions with known answers are made from the passages and checked",
        "data", "make", "--name", name, "--index", name, "--model", model, "--num-questions", str(num_questions),
        "--shares", "0.55,0.1,0.35",
    )  # fmt: skip
    data = f"{made['name']}@{made['version']}"
    base, tuned = folder / "base.toml", folder / "tuned.toml"
    write_text(base, _system(name, model, ""))
    measured = loop.step(
        "Measure", "the model as it is answers the questions it will be tested on",
        "eval", "run", str(base), "--data", data, "--split", "test", "--name", f"{name}-base",
    )  # fmt: skip
    trained = loop.step(
        "Train", "an adapter learns from the other questions, whose documents are not in the test",
        "adapter", "train", "--model", model, "--data", data, "--name", name, "--iters", str(iters),
        "--learning-rate", "5e-4", "--rank", "16", "--steps-per-eval", "50", "--val-batches", "-1",
    )  # fmt: skip
    write_text(tuned, _system(name, model, f"{trained['name']}@{trained['version']}"))
    compared = loop.step(
        "Compare", "both answer the same questions, side by side",
        "ab", "run", str(base), str(tuned), "--data", data, "--split", "test", "--name", f"{name}-ab",
    )  # fmt: skip
    verdict = judge(compared)
    if verdict["word"] == "better":
        where = "" if workspace is None else f" --workspace {root}"
        verdict["next"] = f'mlxrag ask "your question" --config {tuned}{where}'
    page = write_page(folder / "report.html", ingested, made, measured, trained, compared, verdict)
    value = {
        "verdict": verdict["word"], "sentence": verdict["sentence"], "index": name, "dataset": data,
        "adapter": trained["path"], "comparison": compared["path"], "report": str(page), "next": verdict["next"],
    }  # fmt: skip

    def draw() -> None:
        click.echo(f"\n{verdict['sentence']}\nReport: {page}\nNext: {verdict['next']}")

    show.result(value, as_json, draw)


def judge(compared: dict[str, Any]) -> dict[str, str]:
    """Return the verdict on the adapter: better, worse, or not distinguishable, with the sentence of the comparison.

    Args:
        compared: what `ab run --json` answered; its first comparison is the primary measure.
    """
    first = compared["comparisons"][0]
    p = first["corrected"] if first.get("corrected") is not None else first["p"]
    clear = p is not None and p < 0.05
    word = "not distinguishable" if not clear else "better" if first["difference"] > 0 else "worse"
    steps = {
        "better": "",
        "worse": "keep the base model; look at the losses in the report, then train with a smaller --learning-rate",
        "not distinguishable": "make more questions (--num-questions) or train longer (--iters), then compare again",
    }
    return {"word": word, "sentence": str(compared["verdicts"][0]), "next": steps[word]}


def _system(index: str, model: str, adapter: str) -> str:
    lines = [
        "# A system: mlxrag ask --config, mlxrag eval run, mlxrag ab plan.", "[retrieval]", f'index = "{index}"', "",
        "[model]", f"model = {json.dumps(model)}",
    ]  # fmt: skip
    return "\n".join([*lines, *([f'adapter_path = "{adapter}"'] if adapter else []), ""])
