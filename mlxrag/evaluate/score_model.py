"""A score of answers for one model directory after another: what a sweep asks of every recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from mlxrag.data.dataset import open_dataset, sample
from mlxrag.errors import BadInput
from mlxrag.evaluate.evaluate import measures_of, score_rows
from mlxrag.evaluate.figures import figure, home
from mlxrag.evaluate.run import answer_all
from mlxrag.model.sweep import AnswerScore
from mlxrag.rag.system import open_system
from mlxrag.settings import Settings
from mlxrag.workspace import Workspace

PREFERRED = ("test", "valid", "all")  # what a model may have been trained on comes last


def scorer(
    workspace: Workspace, dataset: str, questions: int, settings: Settings, given: Collection[str] = ()
) -> Callable[[Path], AnswerScore]:
    """Return a function that asks a model the questions of a dataset and says how many answers are right.

    Every model is asked the same questions, with the index, retriever and prompt that the settings name.

    Args:
        workspace: where dataset and index are.
        dataset: `name[@version]`; its test split if it has one.
        questions: how many to ask, drawn by the seed of the settings.
        settings: the system around the model, and the measure that decides what is right.
        given: keys that the user set.

    Raises:
        NotFound: no such dataset.
        BadInput: it has no questions.
    """
    opened = open_dataset(workspace, dataset)
    split = next((name for name in PREFERRED if opened.counts.get(name)), "all")
    evaluating = settings.evaluating
    examples = {e.id: e for e in sample(opened.split(split), questions, seed=evaluating.eval_seed)}
    if not examples:
        raise BadInput(f"{opened.ref} has no questions to ask; make some with `mlxrag data make`")
    name, homes = evaluating.right_by, {key: home(example) for key, example in examples.items()}
    measure = {name: measures_of(evaluating)[name]}

    def score(path: Path) -> AnswerScore:
        chosen = settings.model_copy(update={"model": settings.model.model_copy(update={"model": str(path)})})
        with open_system(chosen, workspace, {*given, "model"}) as system, tempfile.TemporaryDirectory() as folder:
            rows = list(answer_all(system, examples.values(), Path(folder)))
        found = figure(name, list(score_rows(rows, examples, measure)), homes, evaluating)
        return AnswerScore(name, found.mean, found.low, found.high, found.n, found.missing, opened.ref)

    return score
