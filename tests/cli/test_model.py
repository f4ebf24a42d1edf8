"""`mlxrag model` and `mlxrag bench`: what the commands answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import mlxrag.model  # noqa: F401  # isort: skip

from mlxrag.cli.main import cli
from mlxrag.errors import BadInput, Mismatch, WontFit
from mlxrag.model.convert import convert
from mlxrag.model.speed import Record, Speed
from mlxrag.rag.renew import renew
from mlxrag.rag.system import open_system
from mlxrag.settings import ModelSettings, Settings
from mlxrag.workspace import create, open_workspace, use
from tests.toy_model import TEXT, write_model


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_model(tmp_path / "toy", num_hidden_layers=2)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "text.md"
    file.write_text((TEXT + "\n\n") * 12)
    return file


def run(*words: object, ws: Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, words), "--workspace", str(ws)])


def answer(*words: object, ws: Path) -> Any:
    """Run a command with --json and return the one document on its stdout."""
    result = run(*words, "--json", ws=ws)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def test_the_life_of_a_model(toy: Path, tmp_path: Path) -> None:
    """Convert, quantize, list, show, configure, use, remove and clean: each answers its names and places."""
    ws = tmp_path / "ws"
    made = answer("model", "convert", toy, ws=ws)
    assert (made["kind"], made["name"], made["version"]) == ("models", "toy", "v1")
    assert made["proof"]["status"] == "not proven" and Path(made["path"], "config.json").is_file()
    small = answer("model", "quantize", "toy", "--q-bits", 8, "--q-group-size", 32, ws=ws)
    assert small["name"] == "toy-8-g32" and small["recipe"] == "8-g32" and small["difference"]["kl_mean"] > 0
    listed = answer("model", "list", ws=ws)["models"]
    assert [(one["name"], one["version"], one["current"]) for one in listed] == [
        ("toy", "v1", True),
        ("toy-8-g32", "v1", True),
    ]
    told = answer("model", "show", "toy-8-g32", "--verify", ws=ws)
    assert told["lineage"] == ["models/toy@v1"] and told["manifest"]["recipe"] == "8-g32"
    assert answer("model", "configure", "toy", "temp=0.2", "context=64", ws=ws)["version"] == "v2"
    assert answer("model", "show", "toy", ws=ws)["own_settings"] == {"context": 64, "temp": 0.2}
    assert answer("model", "use", "toy@v1", ws=ws)["version"] == "v1"
    refused = run("model", "remove", "toy@v1", ws=ws)
    assert isinstance(refused.exception, Mismatch)
    assert answer("model", "remove", "toy@v2", ws=ws)["version"] == "v2"
    assert answer("model", "clean", "--old", ws=ws) == {"removed": False, "nbytes": 0, "found": []}
    for words in (("list",), ("show", "toy"), ("clean",)):
        assert run("model", *words, ws=ws).exit_code == 0


def test_scores_are_attached_by_the_runs_that_were_made_from_a_version(toy: Path, tmp_path: Path) -> None:
    """`show` tells what evaluations found since; the version itself is not changed, and other versions have their own."""
    ws = tmp_path / "ws"
    answer("model", "convert", toy, ws=ws)
    before = (ws / "models" / "toy" / "v1" / "manifest.json").read_bytes()
    figures = {"correct": {"mean": 0.25, "low": 0.1, "high": 0.4, "n": 8, "missing": 0}}
    with create(open_workspace(ws), "runs", "first", inputs=["datasets/q@1", "models/toy@v1"]) as draft:
        (draft.path / "x").write_text("")
        draft.note(what="evaluation", dataset={"ref": "datasets/q@1"}, figures=figures)
    told = answer("model", "show", "toy", ws=ws)["scores"]
    assert told == [{"run": "runs/first@v1", "dataset": "datasets/q@1", "figures": figures}]
    assert "correct 0.25 on datasets/q@1" in " ".join(run("model", "show", "toy", ws=ws).output.split())
    assert (ws / "models" / "toy" / "v1" / "manifest.json").read_bytes() == before


def test_flags_of_mlx_lm_convert_mean_the_same(toy: Path, tmp_path: Path) -> None:
    """-q with bits, group and mode, --quant-predicate, --dtype and --mlx-path."""
    ws = tmp_path / "ws"
    assert answer("model", "convert", toy, "-q", ws=ws)["recipe"] == "4-g64"
    assert answer("model", "convert", toy, "-q", "--q-mode", "mxfp4", ws=ws)["recipe"] == "mxfp4"
    assert (
        answer("model", "convert", toy, "-q", "--quant-predicate", "mixed_3_6", "--q-group-size", 32, ws=ws)["recipe"]
        == "mixed_3_6-g32"
    )
    out = answer("model", "convert", toy, "--dtype", "bfloat16", "--mlx-path", tmp_path / "out", ws=ws)
    assert out["version"] is None and out["dtype"] == "bfloat16" and (tmp_path / "out" / "conversion.json").is_file()
    plain = answer("model", "convert", "toy@v1", "-d", "--name", "plain", ws=ws)
    assert plain["bits_per_weight"] == 32 and plain["difference"]["max_difference"] < 1e-4
    assert run("model", "convert", "toy@v1", "-q", "-d", ws=ws).exit_code == 2
    again = run("model", "convert", toy, "--mlx-path", tmp_path / "out", ws=ws)
    assert isinstance(again.exception, BadInput)


def test_a_calibrated_recipe_takes_the_users_own_text(toy: Path, texts: Path, tmp_path: Path) -> None:
    """gptq runs on the files that are given, and is refused without any."""
    ws = tmp_path / "ws"
    words = (
        "model",
        "quantize",
        toy,
        "--quantizer",
        "gptq",
        "--q-group-size",
        32,
        "--calibration-samples",
        4,
        "--calibration-tokens",
        16,
    )
    made = answer(*words, "--calibration", texts, ws=ws)
    assert made["recipe"] == "gptq-4-g32"
    assert isinstance(run(*words, ws=ws).exception, BadInput)


def test_a_sweep_leaves_a_report_and_a_version(toy: Path, texts: Path, tmp_path: Path) -> None:
    """Rows as JSON, a page, and the pick as a version with its figures."""
    ws = tmp_path / "ws"
    found = answer(
        "model", "sweep", toy, "--recipe", "8-g32", "--recipe", "4-g32", "--max-kl", 0.5, "--runs", 1, "--prompt-tokens", 8,
        "--new-tokens", 2, "--calibration", texts, "--calibration-samples", 4, "--calibration-tokens", 32, "--html",
        tmp_path / "r.html", ws=ws,
    )  # fmt: skip
    assert [row["recipe"] for row in found["rows"]] == ["original", "8-g32", "4-g32"]
    assert found["pick"] == "4-g32" and found["model"]["name"] == "toy-4-g32" and Path(found["model"]["path"]).is_dir()
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert json.loads(Path(found["path"], "report.json").read_text())["pick"] == "4-g32"
    drawn = run("model", "sweep", toy, "--recipe", "4-g128", "--runs", 1, "--prompt-tokens", 4, "--new-tokens", 2,
                "--calibration", texts, "--calibration-samples", 3, "--calibration-tokens", 16, ws=ws)  # fmt: skip
    assert "4-g128 was left out: no layer can be divided" in drawn.output


def test_pruning_answers_what_it_costs(toy: Path, texts: Path, tmp_path: Path) -> None:
    """A trial of a smaller vocabulary gives figures and makes nothing; nothing to do is misuse."""
    ws = tmp_path / "ws"
    found = answer("model", "prune", toy, "--trim-vocabulary", "--keep-top", 0, "--dry-run", "--calibration", texts,
                   "--calibration-samples", 2, "--calibration-tokens", 16, ws=ws)  # fmt: skip
    assert found["name"] is None and found["same_cuts"] == 1.0
    assert run("model", "prune", toy, ws=ws).exit_code == 2
    assert answer("model", "list", ws=ws)["models"] == []


def test_bench_writes_and_compares(toy: Path, tmp_path: Path) -> None:
    """A measurement is one JSON document, can be kept, and a later one is compared with it."""
    words = ("bench", toy, "--prompt-tokens", 8, "--new-tokens", 2, "--runs", 2, "--warm", 0)
    first = answer(*words, "--out", tmp_path / "b.json", ws=tmp_path / "ws")
    assert first["kind"] == "bench" and first["cells"][0]["prompt_tokens"] == 8 and first["machine"]["chip"]
    second = answer(*words, "--compare", tmp_path / "b.json", ws=tmp_path / "ws")
    assert {one["figure"] for one in second["compared"]} >= {"decode", "prefill", "first_token", "load", "peak_bytes"}
    assert run(*words, "--compare", tmp_path / "b.json", ws=tmp_path / "ws").exit_code == 0


def test_misspelled_commands_name_the_nearest(tmp_path: Path) -> None:
    """`mlxrag model lst` is misuse, with a hint."""
    result = run("model", "lst", ws=tmp_path / "ws")
    assert result.exit_code == 2 and "did you mean 'list'" in result.output


def test_a_running_system_takes_up_the_version_in_use(tmp_path: Path) -> None:
    """Between two turns another version answers, under the same System; a failing one is said and not tried again."""
    ws = open_workspace(tmp_path / "ws")
    for seed in (0, 1):
        convert(str(write_model(tmp_path / f"toy{seed}", seed=seed, num_hidden_layers=1)), ws, name="toy")
    use(ws, "models", "toy@v1")
    with open_system(Settings(model=ModelSettings(model="toy")), ws, index=False) as system:
        assert renew(system, ws) is None
        before = system.fingerprint
        use(ws, "models", "toy@v2")
        assert renew(system, ws) == "toy@v2" and system.model.version == "v2" and system.fingerprint != before
        use(ws, "models", "toy@v1")
        (ws.root / "models" / "toy" / "v1" / "config.json").write_text("{")
        with pytest.raises(BadInput):
            renew(system, ws)
        assert system.model.version == "v2" and system.model.network is not None
        assert renew(system, ws, but="toy@v1") is None


def test_choose_takes_times_and_budgets_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--max-latency 2s --memory-budget 12GB` on a machine that is given, as a table's facts; a wrong time is one sentence."""
    chip = Speed("gpu", 200e9, 5.3e12, "float16")
    monkeypatch.setattr("mlxrag.model.speed.remembered", lambda refresh=False: Record("Apple M1 Pro", "0", (chip,)))
    monkeypatch.setattr("mlxrag.model.speed.backend", lambda: "Metal")
    monkeypatch.setattr("mlxrag.model.speed.benched", dict)
    words = ["model", "choose", "--goal", "best", "--max-latency", "10s", "--memory-budget", "12GB", "--json"]
    found = json.loads(CliRunner().invoke(cli, words).stdout)
    chosen = next(c for c in found["candidates"] if c["model"] == found["model"] and c["bits"] == found["bits"])
    assert found["budget"] == 12 * 10**9 and chosen["latency"] <= 10 and chosen["bytes"] <= found["budget"]
    assert any("over 10 s" in c["rejected"] for c in found["candidates"])
    wrong = CliRunner().invoke(cli, ["model", "choose", "--max-latency", "soon"])
    assert isinstance(wrong.exception, BadInput)
    none = CliRunner().invoke(cli, ["model", "choose", "--memory-budget", "100MB", "--json"])
    told = json.loads(none.stdout)
    assert isinstance(none.exception, WontFit) and told["model"] is None
    assert len(told["candidates"]) == len(found["candidates"])
    assert all("of 0.1 GB" in c["rejected"] for c in told["candidates"])
