"""`mlxrag ask`, `chat` and `generate` with a toy model: the answer on stdout, remarks on stderr, one sentence on failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxrag import memory
from mlxrag.memory import Ledger
from mlxrag.model.admit import need
from mlxrag.model.encode import load_encoder
from mlxrag.model.load import load
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.settings import Caching, Settings
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model

Command = Callable[..., tuple[int, str, str]]
FACTS = ("Leave is 28 days a year.", "The ox costs 1,290 euro.", "The shop opens at nine.", "Dogs ride free.")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace `ws` that has an index of four documents, and models `toy` and `plain`."""
    root = tmp_path_factory.mktemp("answers")
    docs = root / "docs"
    docs.mkdir()
    for i, fact in enumerate(FACTS):
        (docs / f"{i}.txt").write_text(f"{fact} {'More of it is told here. ' * 3}")
    ws = open_workspace(root / "ws")
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], Settings()))
    write_model(root / "toy", head_dim=32, num_hidden_layers=2)
    write_model(root / "plain", template=False, num_hidden_layers=1)
    return root


@pytest.fixture
def world(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with the environment pointing at workspace and model."""
    monkeypatch.setenv("MLXRAG_WORKSPACE", str(made / "ws"))
    monkeypatch.setenv("MLXRAG_MODEL", str(made / "toy"))
    monkeypatch.setenv("MLXRAG_MAX_TOKENS", "8")
    monkeypatch.setenv("MLXRAG_NUM_PASSAGES", "2")
    return made


def asked(command: Command, *words: object) -> dict[str, Any]:
    code, out, err = command("ask", *words, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def test_ask_answers_in_json_with_hits_model_and_cost(world: Path, command: Command) -> None:
    """Every citation is one of the hits; tokens and seconds are told."""
    value = asked(command, "What does the ox cost?")
    assert value["question"] == "What does the ox cost?" and value["model"] == "toy"
    assert [hit["rank"] for hit in value["hits"]] == [1, 2]
    assert {"n", "source", "place"} >= {key for citation in value["citations"] for key in citation}
    assert value["cites_nothing"] == (not value["citations"] and not value["refused"])
    assert value["usage"]["answer_tokens"] <= 8 and value["usage"]["seconds"] > 0


def test_ask_shows_the_answer_and_its_sources_on_stdout_and_doubts_on_stderr(world: Path, command: Command) -> None:
    """An answer that cites nothing is marked, and the passages that it was given are named."""
    value = asked(command, "What does the ox cost?")
    code, out, err = command("ask", "What does the ox cost?")
    assert code == 0 and out.startswith(value["answer"][:4])
    if value["cites_nothing"]:
        assert "cites no passage" in err and f"[1] {value['hits'][0]['source']}" in out
    assert "cut at --max-tokens" in err or value["usage"]["finish_reason"] != "length"


def test_passages_that_do_not_fit_are_dropped_and_said(world: Path, command: Command, made: Path) -> None:
    """A short context keeps the best passages, and the reader is told how many it lost."""
    write_model(made / "short", max_position_embeddings=160, num_hidden_layers=1)
    words = ("When does the shop open?", "--model", made / "short", "--num-passages", 4, "--system-prompt", "Be brief.")
    value = asked(command, *words)
    assert value["dropped_passages"] > 0 and len(value["hits"]) == 4 - value["dropped_passages"] > 0
    assert "did not fit into the model's context" in command("ask", *words)[2]


def test_a_question_beyond_the_context_fails_in_one_sentence(world: Path, command: Command) -> None:
    """Nothing can be dropped that would make it fit."""
    code, out, err = command("ask", "why " * 1500)
    assert code == 1 and out == "" and "shorten it" in err and err.count("\n") == 1


def test_without_a_passage_the_question_is_refused_in_words(world: Path, command: Command) -> None:
    """The documents do not hold an answer: that is an answer, and exit code 0."""
    value = asked(command, "How many?", "--where", "source=nowhere*")
    assert value["refused"] and value["answer"] == "Not in the documents." and value["hits"] == []


@pytest.mark.parametrize(
    "flags",
    [
        ("--max-kv-size", "64"),
        ("--kv-bits", "8", "--kv-group-size", "32", "--quantized-kv-start", "0"),
        ("--temp", "0.8", "--top-p", "0.9", "--min-p", "0.05", "--top-k", "20", "--seed", "3"),
        ("--cache-memory", "0", "--no-lookup"),
        ("--retriever", "lexical"),
        ("--prefill-step-size", "16"),
    ],
)
def test_the_flags_of_mlx_lm_reach_the_answer(world: Path, command: Command, flags: tuple[str, ...]) -> None:
    """They are accepted, and the same flags give the same answer twice."""
    first, again = (asked(command, "Do dogs pay?", *flags) for _ in range(2))
    assert first["answer"] == again["answer"] and first["usage"]["answer_tokens"] > 0


def test_heads_that_no_group_divides_are_refused_with_what_to_do(world: Path, command: Command, made: Path) -> None:
    """--kv-bits on heads of 16 numbers."""
    code, out, err = command("ask", "Why?", "--model", made / "plain", "--kv-bits", 8, "--quantized-kv-start", 0)
    assert code == 1 and out == "" and "--kv-group-size" in err and err.count("\n") == 1


def test_a_model_without_a_chat_template_answers(world: Path, command: Command, made: Path) -> None:
    """The prompt is laid out in plain words."""
    assert asked(command, "Do dogs pay?", "--model", made / "plain")["usage"]["answer_tokens"] > 0


def test_keys_and_values_on_disk_serve_the_next_process(world: Path, command: Command) -> None:
    """--cache-disk writes them at the end, and the same question is not processed again."""
    first = asked(command, "Do dogs pay?", "--cache-disk", 64)
    assert list((world / "ws" / "cache" / "kv").glob("*.safetensors"))
    again = asked(command, "Do dogs pay?", "--cache-disk", 64)
    assert first["usage"]["reused_tokens"] == 0
    assert again["usage"]["reused_tokens"] >= again["usage"]["prompt_tokens"] - 1
    assert again["answer"] == first["answer"]


@pytest.mark.parametrize(("flags", "code"), [(("--cache-disk", "64"), 1), ((), 0)])
def test_a_cache_that_cannot_be_written_costs_no_answer(
    world: Path, command: Command, flags: tuple[str, ...], code: int
) -> None:
    """The answer stands; who asked for the cache is told what to do, nobody else is."""
    folder = world / "ws" / "cache"
    kept = folder.rename(folder.with_name("kept")) if folder.exists() else None
    folder.write_text("a file where the folder should be")
    try:
        ended, out, err = command("ask", "Do dogs pay?", *flags)
    finally:
        folder.unlink()
        if kept is not None:
            kept.rename(folder)
    assert ended == code and out.strip() and "Traceback" not in err
    assert ("leave --cache-disk out" in err) == bool(flags)


def test_chat_rewrites_a_follow_up_keeps_the_conversation_and_begins_anew(world: Path, command: Command) -> None:
    """A follow-up is searched for with what it leans on; only new tokens are processed; /new forgets."""
    typed = "When does the shop open?\n\nAnd on Sunday?\n/new\nAnd on Sunday?\n/quit\nnever asked\n"
    code, out, _ = command("chat", "--json", "--model", world / "plain", typed=typed)
    first, second, third = map(json.loads, out.splitlines())
    assert code == 0
    assert "searched" not in first and second["searched"] == "When does the shop open? And on Sunday?"
    assert second["usage"]["reused_tokens"] > first["usage"]["prompt_tokens"] // 2
    assert "searched" not in third


def test_chat_streams_and_goes_on_after_a_question_that_fails(world: Path, command: Command) -> None:
    """What is too long is one sentence on stderr; the next question is answered."""
    code, out, err = command("chat", typed="why " * 1500 + "\nDo dogs pay?\n")
    assert code == 0 and "shorten it" in err and out.strip() and "Traceback" not in err


def test_chat_says_what_it_searched_for_and_ctrl_c_stops_one_answer(
    world: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation goes on without the question that was stopped."""
    from mlxrag.rag import system

    whole, asked_for = system.stream_answer, []

    def stopped(opened: Any, question: str, history: Any = ()) -> Any:
        asked_for.append((question, len(history)))
        for part in whole(opened, question, history):
            yield part
            if len(asked_for) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(system, "stream_answer", stopped)
    typed = "When does the shop open?\nWho wrote that?\nAnd on Sunday?\n"
    code, _, err = command("chat", "--model", world / "plain", typed=typed)
    assert code == 0 and "Stopped" in err and "Searched for: When does the shop open? And on Sunday?" in err
    assert [n for _, n in asked_for] == [0, 1, 1]


def test_generate_prints_like_mlx_lm_and_answers_in_json(world: Path, command: Command) -> None:
    """Between two lines of ten signs, with tokens per second after it; as JSON with text and usage."""
    code, out, _ = command("generate", "--prompt", "hello", "--max-tokens", 6)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "=" * 10 and any(line.startswith("Generation: ") for line in lines)
    value = json.loads(command("generate", "--prompt", "hello", "--max-tokens", 6, "--json")[1])
    assert value["text"] in out and value["usage"]["generation_tokens"] <= 6
    code, out, _ = command("generate", "--prompt", "-", "--max-tokens", 6, "--verbose", "False", typed="hello")
    assert code == 0 and out == value["text"] + "\n"


def test_generate_takes_smaller_steps_where_memory_is_short_and_then_refuses(world: Path, command: Command) -> None:
    """The same tokens in smaller steps of the prompt; with too little for any, one sentence and exit code 1."""
    words = ("generate", "--model", world / "plain", "--prompt", "hello " * 150, "--max-tokens", 4, "--json")
    value = json.loads(command(*words)[1])
    tokens = value["usage"]["prompt_tokens"] + 4
    before = list(memory._current)
    try:
        memory.use(Ledger(1 << 40))
        with load(world / "plain") as model:
            plain, small = need(model, tokens, Caching()), need(model, tokens, Caching(prefill_step_size=64))
            weights = model.nbytes
        memory.use(Ledger(weights + (plain + small) // 2))
        code, out, _ = command(*words)
        assert code == 0 and json.loads(out)["text"] == value["text"]
        memory.use(Ledger(weights + small // 2))
        code, out, err = command(*words)
        assert code == 1 and out == "" and "needs" in err and err.count("\n") == 1
    finally:
        memory._current[:] = before


def harm_pointer(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


def harm_end(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def harm_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def harm_config(path: Path) -> None:
    (path / "config.json").write_text("{")


@pytest.mark.parametrize("verb", ["ask", "generate"])
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (harm_pointer, "Git LFS pointer"),
        (harm_end, "truncated"),
        (harm_tokenizer, "tokenizer"),
        (harm_config, "config.json"),
    ],
)
def test_a_broken_model_is_one_sentence(
    world: Path, command: Command, tmp_path: Path, verb: str, harm: Callable[[Path], None], says: str
) -> None:
    """What is wrong with which file, exit code 1, nothing on stdout."""
    path = write_model(tmp_path / "broken", num_hidden_layers=1)
    harm(path)
    words = ("ask", "Why?") if verb == "ask" else ("generate", "--prompt", "hello")
    code, out, err = command(*words, "--model", path)
    assert code == 1 and out == "" and says in err and str(path) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ask", " "), "the question is empty"),
        (("ask", "Why?", "--index", "docments"), "did you mean 'documents'"),
        (("ask", "Why?", "--model", "/no/such/model"), "/no/such/model"),
        (("ask", "Why?", "--model", "nobody/nothing"), "hub"),
        (("ask", "Why?", "--where", "nonsense"), "FIELD=GLOB"),
        (("ask", "Why?", "--adapter-path", "/no/such/adapter"), "/no/such/adapter"),
        (("generate", "--model", "/no/such/model"), "/no/such/model"),
        (("generate", "--chat-template-config", "{"), "JSON"),
        (("generate", "--extra-eos-token", "<nope>"), "<nope>"),
        (("generate", "--prompt-cache-file", "/no/such/file"), "/no/such/file"),
        (("chat", "--model", "/no/such/model"), "/no/such/model"),
    ],
)
def test_failures_are_one_sentence(world: Path, command: Command, words: tuple[str, ...], says: str) -> None:
    """Exit code 1, nothing on stdout, no traceback."""
    code, out, err = command(*words)
    assert code == 1 and out.strip("=\n") == "" and says in err and err.count("\n") == 1


PROGRAM = """
import sys
from mlxrag.cli.main import main
sys.argv = ['mlxrag', *{words!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print('LOADED', [name for name in {heavy!r} if name in sys.modules])
"""
HEAVY = ("transformers", "mlx_lm.utils", "huggingface_hub", "mlflow", "scipy", "pandas", "pyarrow", "pydantic", "torch")


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("ask", "Do dogs pay?", "--max-tokens", "2"), ()),
        (("generate", "--max-tokens", "2"), ("numpy", "tantivy", "sqlite3")),
        (("search", "dogs"), ("mlx.nn", "mlx_lm.models.llama")),
    ],
)
def test_commands_start_lean(world: Path, words: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Neither transformers nor any other large package is imported on the way to an answer."""
    program = PROGRAM.format(words=list(words), heavy=[*HEAVY, *more])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout
