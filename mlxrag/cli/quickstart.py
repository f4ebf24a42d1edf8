"""`mlxrag quickstart`: the whole loop, as the commands that a person would type.

Each step is one real command in its own process, so that nothing it held stays in memory, a crash takes only the step
along, and what was printed can be repeated. Finished steps are written down with what they answered; the same call
goes on after the last of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlxrag.cli.options import machine_options, workspace_option

NAME = "quickstart"
REFUSED = 3  # exit code of a command whose gate said no; it has answered why
FEW = 30  # test questions below which the loop says that they are few

Answered = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loop:
    """Where the loop stands.

    Attributes:
        root: the workspace.
        file: what is written after each step.
        done: finished steps by title: the arguments and what was answered; other arguments are another step.
        quiet: print nothing but the last answer.
        held: file descriptor of the lock; commands inherit it, so that one which outlives this process holds it on.
        where: what a printed command needs to find the workspace; empty where it finds it by itself.
    """

    root: Path
    file: Path
    done: dict[str, Any]
    quiet: bool
    held: int | None = None
    where: str = ""

    def step(self, title: str, why: str, *args: str, says: Callable[[Answered], str]) -> dict[str, Any]:
        """Run one command unless it was run, and return what it answered, a refusal of its gate included.

        Args:
            title: of the step.
            why: what it does, in plain words.
            args: the command.
            says: answer -> what came of it, in plain words.

        Raises:
            MlxragError: the command failed; what it said is the message.
        """
        from mlxrag.errors import MlxragError
        from mlxrag.workspace import write_json

        self.say(f"\n{[*self.done, title].index(title) + 1}. {title}: {why}.")
        self.say(f"   $ mlxrag {shlex.join(args)}{self.where}")
        known = self.done.get(title)
        if known is not None and known["args"] == list(args):
            self.say(f"   done before: {says(known['answer'])}")
            return dict(known["answer"])
        started = time.monotonic()
        command = [sys.executable, "-m", "mlxrag", *args, "--workspace", str(self.root), "--json"]
        passed = () if self.held is None else (self.held,)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=passed) as child:
            try:
                out, _ = child.communicate()
            except KeyboardInterrupt:
                child.wait(10)
                raise
        if child.returncode == 130:
            raise KeyboardInterrupt
        if child.returncode not in (0, REFUSED):
            raise MlxragError(
                f"the step {title!r} failed; what is finished is kept, run mlxrag quickstart again to go on"
            )
        answer: dict[str, Any] = json.loads(out)
        self.done[title] = {"args": list(args), "answer": answer}
        write_json(self.file, self.done)
        self.say(f"   {says(answer)} ({time.monotonic() - started:.0f} s)")
        return answer

    def say(self, text: str) -> None:
        """Print a remark, unless only the last answer is wanted."""
        from mlxrag.cli import show

        if not self.quiet:
            show.say(text)


@click.command()
@click.argument("docs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", default="reader", show_default=True, help="Model to ask and to train.")
@click.option("--num-questions", default=160, show_default=True, type=click.IntRange(40), help="Questions to make.")
@click.option("--iters", default=60, show_default=True, type=click.IntRange(1), help="Batches to train on.")
@click.option("--again", is_flag=True, help="Begin anew instead of going on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@machine_options
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
    from mlxrag.workspace import open_workspace

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
    started = time.monotonic()
    with _alone(folder, as_json) as held:
        file = folder / "steps.json"
        done = json.loads(file.read_text()) if file.is_file() and not again else {}
        where = "" if workspace is None else f" --workspace {shlex.quote(str(root))}"
        loop = Loop(root, file, done, as_json, held, where)
        name = f"{NAME}-{key[:6]}"
        answers = _steps(loop, paths, model, num_questions, iters, name, folder)
        verdict = judge(answers["Compare"])
        verdict["next"], verdict["why"] = _next(verdict["word"], answers, folder, docs, where)
        verdict["kept"] = _kept(verdict["word"], answers)
        said = {**verdict, "title": SAID[verdict["word"]]}
        page = write_page(folder / "report.html", answers, said, FEW)
    made, trained = answers["Question"], answers["Train"]
    value = {
        "verdict": verdict["word"], "sentence": verdict["sentence"], "index": name, "dataset": _ref(made),
        "adapter": trained["path"], "model": answers.get("Keep", {}).get("path"),
        "comparison": answers["Compare"]["path"], "report": str(page), "next": verdict["next"],
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip

    def draw() -> None:
        click.echo(f"\n{SAID[verdict['word']]}. {verdict['sentence']}")
        click.echo(
            f"{verdict['kept']}\nAdapter: {trained['path']}\nReport: {page}\nNext, {verdict['why']}: {verdict['next']}"
        )

    show.result(value, as_json, draw)


SAID = {
    "better": "With the adapter the answers are better",
    "worse": "With the adapter the answers are worse",
    "not distinguishable": "With and without the adapter the answers are not distinguishable",
}
KEPT = {
    "better": "It is fused into the model, which answers as the two did, without the adapter's cost.",
    "refused": "It is kept beside the model and used with it, not fused into it.",
    "worse": "The model is kept as it was; the adapter lies beside it and is not used.",
    "not distinguishable": "The model is kept as it was, since an adapter that is not shown to help is not used. That does not mean "
    "that both are alike: the interval says what is still possible.",
}


def _steps(
    loop: Loop, paths: list[Path], model: str, num_questions: int, iters: int, name: str, folder: Path
) -> dict[str, dict[str, Any]]:
    """Run the steps and return their answers, by title."""
    from mlxrag.workspace import write_text

    found: dict[str, dict[str, Any]] = {}
    found["Read"] = loop.step(
        "Read", "your files become passages in an index", "ingest", *map(str, paths), "--index", name,
        says=lambda a: f"{a['documents']} documents became {a['passages']} passages"
        + (f"; {len(a['refused'])} files could not be read" if a["refused"] else ""),
    )  # fmt: skip
    made = found["Question"] = loop.step(
        "Question", "questions with known answers are made from the passages, checked, and split by document",
        "data", "make", "--name", name, "--index", name, "--model", model, "--num-questions", str(num_questions),
        "--shares", "0.55,0.1,0.35", "--keep-hard",
        says=_asked,
    )  # fmt: skip
    data = _ref(made)
    base, tuned, fused = (folder / f"{system}.toml" for system in ("base", "tuned", "fused"))
    write_text(base, _system(name, model, ""))
    found["Measure"] = loop.step(
        "Measure", "the model as it is answers the questions it will be tested on",
        "eval", "run", str(base), "--data", data, "--split", "test", "--name", f"{name}-base", says=_score,
    )  # fmt: skip
    trained = found["Train"] = loop.step(
        "Train", "an adapter learns from the other questions, whose documents are not in the test",
        "adapter", "train", "--model", model, "--data", data, "--name", name, "--iters", str(iters),
        "--learning-rate", "2e-4", "--rank", "8", "--steps-per-eval", str(max(1, iters // 6)), "--val-batches", "-1",
        says=_learnt,
    )  # fmt: skip
    write_text(tuned, _system(name, model, _ref(trained)))
    found["Measure again"] = loop.step(
        "Measure again", "the model with the adapter answers the same questions",
        "eval", "run", str(tuned), "--data", data, "--split", "test", "--name", f"{name}-tuned", says=_score,
    )  # fmt: skip
    compared = found["Compare"] = loop.step(
        "Compare", "both answer once more, side by side, and are timed in turn",
        "ab", "run", str(base), str(tuned), "--data", data, "--split", "test", "--name", f"{name}-ab",
        says=lambda a: str(a["verdicts"][0]),
    )  # fmt: skip
    if judge(compared)["word"] == "better":
        kept = found["Keep"] = loop.step(
            "Keep", "the adapter is better, so it is fused into the model",
            "adapter", "fuse", _ref(trained), "--model", model, "--name", f"{name}-fused",
            says=_fused,
        )  # fmt: skip
        if "refused" not in kept:
            write_text(fused, _system(name, _ref(kept), ""))
    found["Advise"] = loop.step(
        "Advise", "all that was measured is looked through for what to do next",
        "ab", "advise", "--data", data, "--out", str(folder / "advice"),
        says=lambda a: str(a["advices"][0]["text"]) if a["advices"] else "no rule has anything to say",
    )  # fmt: skip
    return found


def judge(compared: Answered) -> dict[str, str]:
    """Return the verdict on the adapter: better, worse, or not distinguishable, with the sentence of the comparison.

    Args:
        compared: what `ab run --json` answered; its first comparison is the primary measure.
    """
    first = compared["comparisons"][0]
    p = first["corrected"] if first.get("corrected") is not None else first["p"]
    clear = p is not None and p < 0.05
    word = "not distinguishable" if not clear else "better" if first["difference"] > 0 else "worse"
    return {"word": word, "sentence": str(compared["verdicts"][0])}


def _next(
    word: str, answers: Mapping[str, Answered], folder: Path, docs: tuple[Path, ...], where: str
) -> tuple[str, str]:
    """Return what to type and why: ask where it got better, else the experiment that tells most, else for more questions."""
    if word == "better":
        system = "tuned.toml" if "refused" in answers["Keep"] else "fused.toml"
        return f'mlxrag ask "your question" --config {shlex.quote(str(folder / system))}{where}', "ask it"
    # An adapter trained on these documents is what has just been tried.
    planned = [
        e for e in answers["Advise"]["experiments"] if e["commands"] and " adapter train " not in e["commands"][0]
    ]
    if planned:
        return " && ".join(planned[0]["commands"]), f"the experiment that tells most ({planned[0]['text']})"
    said = "".join(f" {shlex.quote(str(d))}" for d in docs)
    return "mlxrag model choose --goal best", (
        f"since {answers['Question']['kept']} questions tell little: more documents give more, and so does a larger model, "
        f"which writes them; take one of these with mlxrag quickstart{said} --model NAME{where}"
    )


def _kept(word: str, answers: Mapping[str, Answered]) -> str:
    """Return what becomes of the adapter; where it was to be fused and was not, with the reason."""
    refused = answers.get("Keep", {}).get("refused")
    return KEPT[word] if refused is None else f"{KEPT['refused']} The reason: {refused}."


@contextmanager
def _alone(folder: Path, quiet: bool) -> Iterator[int]:
    """Hold the lock of a loop; wait for a step that a killed loop has left running, so that no two do the same."""
    from mlxrag.cli import show

    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                show.say(
                    "the same quickstart is at work, or the last step of one that was stopped; waiting for it to end"
                )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _ref(answer: Answered) -> str:
    return f"{answer['name']}@{answer['version']}"


def _asked(made: Answered) -> str:
    train, valid, test = (made["counts"].get(split, 0) for split in ("train", "valid", "test"))
    used = train + valid + test
    kept = f"{made['kept']} questions of {made['proposed']} are good" + (
        f", {used} are taken" if used < made["kept"] else ""
    )
    few = f"; {test} are few: only a large difference will show" if test < FEW else ""
    return f"{kept}: {train} to learn from, {valid} to stop by, {test} to be tested on{few}"


def _score(measured: Answered) -> str:
    f = measured["figures"].get("correct") or {}
    if f.get("mean") is None:
        return f"{measured['examples']} questions, none with a score"
    bounds = "" if f.get("low") is None else f" ({100 * f['low']:.0f} to {100 * f['high']:.0f})"
    return f"{100 * f['mean']:.0f} % of {f['n']} answers are right{bounds}"


def _learnt(trained: Answered) -> str:
    scores = trained.get("scores") or {}
    base, best = scores.get("base") or {}, scores.get("best") or {}
    if base.get("valid_loss") is None or best.get("valid_loss") is None:
        return f"learnt for {scores.get('iterations', 0)} batches"
    kept = f"(batch {best['iteration']} of {scores['iterations']}, which is kept)"
    if best["valid_loss"] >= base["valid_loss"]:
        return (
            f"the loss on questions it did not learn from never fell below the {base['valid_loss']:.3f} of the model alone; "
            f"the lowest was {best['valid_loss']:.3f} {kept}"
        )
    return f"the loss on questions it did not learn from went from {base['valid_loss']:.3f} to {best['valid_loss']:.3f} {kept}"


def _fused(kept: Answered) -> str:
    if "refused" in kept:
        return f"not fused: {kept['refused']}; the adapter is kept beside the model"
    share = kept.get("kept")
    return "the fused model keeps " + (
        f"{share:.0%} of what the adapter changed" if share is not None else "the adapter's change"
    )


def _system(index: str, model: str, adapter: str) -> str:
    lines = [
        "# A system: mlxrag ask --config, mlxrag eval run, mlxrag ab plan.", "[retrieval]", f'index = "{index}"', "",
        "[model]", f"model = {json.dumps(model)}",
    ]  # fmt: skip
    return "\n".join([*lines, *([f'adapter_path = "{adapter}"'] if adapter else []), ""])
