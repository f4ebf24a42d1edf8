"""Every value a user may adjust, in the order the data meets them.

One field is the whole declaration: default, limits, help line, command-line flag (`--chunk-tokens`), environment
variable (`MLXRAG_CHUNK_TOKENS`), TOML key (`[chunking] chunk_tokens`) and what a manifest records.
Precedence: flag > environment > file > default.  A key belongs to one table only.

Longer than other files, since it is the one place to look for a value: in two, a reader would not know in which.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlxrag.errors import BadInput, nearest
from mlxrag.table import Field, Invalid
from mlxrag.table import Table as Table


class Reading(Table):
    """How files become documents."""

    include: tuple[str, ...] = Field((), description="Read only files whose path matches this glob (may be repeated).")
    exclude: tuple[str, ...] = Field((), description="Skip files whose path matches this glob (may be repeated).")
    password: str = Field("", description="Password for encrypted files.")
    read_workers: int = Field(2, ge=1, le=16, description="Processes that parse files.")
    read_seconds: float = Field(30.0, gt=0, description="Longest time one file may take to parse, in seconds.")
    read_memory: int = Field(1024, ge=64, description="Most memory one parsing process may take, in MiB.")
    max_file_size: int = Field(64, ge=1, description="Largest file that is read, in MiB.")


class Chunking(Table):
    """How a document becomes passages."""

    chunker: Literal["structure", "sentences", "tokens"] = Field(
        "structure", description="Cut at headings and paragraphs, at sentences, or at tokens."
    )
    chunk_tokens: int = Field(160, ge=16, le=8192, description="Longest passage, in the encoder's tokens.")
    chunk_overlap: int = Field(
        24, ge=0, le=1024, description="Tokens shared by neighbouring passages that had to be cut."
    )


class Encoding(Table):
    """How texts become vectors."""

    encoder: str = Field("all-MiniLM-L6-v2", description="Encoder: a directory, a hub id or all-MiniLM-L6-v2.")
    encoder_bits: int = Field(
        0, ge=0, le=8, description="Quantize the encoder to this many bits on loading; 0 leaves it as it is."
    )
    encoder_max_tokens: int = Field(0, ge=0, description="Cut texts at this many tokens; 0 is the encoder's own limit.")
    encode_tokens: int = Field(
        0, ge=0, description="Tokens encoded at once, padding included; 0 finds the best by measuring."
    )
    question_prefix: str | None = Field(None, description="Put before each question; the encoder's own unless given.")
    passage_prefix: str | None = Field(None, description="Put before each passage; the encoder's own unless given.")


class Retrieval(Table):
    """How passages are found for a question."""

    index: str = Field("documents", description="Name of the index.")
    store: str = Field(
        "", description="Keep the index in PostgreSQL: postgresql://USER@HOST/DATABASE; unless given, in the workspace."
    )
    retriever: Literal["hybrid", "dense", "lexical"] = Field("hybrid", description="How passages are found.")
    num_passages: int = Field(5, ge=1, le=1000, description="Passages to retrieve.")
    num_sentences: int = Field(
        0, ge=0, le=1000, description="Show the model only so many sentences of the passages, the nearest; 0 is all."
    )
    where: tuple[str, ...] = Field(
        (), description="Keep only passages with FIELD=GLOB, such as source=*.md (may be repeated)."
    )
    candidates: int = Field(
        100, ge=1, le=10_000, description="Passages that each half of hybrid retrieval contributes."
    )
    fusion: Literal["sum", "rrf"] = Field(
        "sum", description="Join the halves by normalized scores or by reciprocal ranks."
    )
    dense_weight: float = Field(
        0.5, ge=0.0, le=1.0, description="Weight of the vectors' half; the words' half has the rest."
    )
    rrf_k: int = Field(60, ge=1, description="Constant of reciprocal rank fusion.")
    diversity: float = Field(
        0.0, ge=0.0, le=1.0, description="Prefer passages unlike those above them (MMR); 0 is off."
    )
    reranker: str = Field("", description="Cross-encoder that reorders the first hits: a directory or a hub id.")
    rerank_depth: int = Field(30, ge=1, le=1000, description="Hits that the cross-encoder reads.")
    exact_below: int = Field(
        20_000, ge=0, description="Compare every vector in an index with fewer passages than this."
    )
    rescore_depth: int = Field(
        1000, ge=1, description="In a larger index, passages chosen by sign bits and then scored."
    )


class ModelSettings(Table):
    """Which model answers."""

    model: str = Field(
        "",
        description="Model: a directory, NAME[@VERSION], a hub id, or reader (bundled); the best that fits unless given.",
    )
    adapter_path: str = Field("", description="LoRA adapter: a directory or NAME[@VERSION].")
    load_dtype: Literal["auto", "keep", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Type of the weights in memory; auto keeps the file's, but float32 on a CPU, where half is slow.",
    )
    trust_remote_code: bool = Field(False, description="Allow Python code that comes with a model to run.")
    q_bits: int | None = Field(
        None,
        ge=2,
        le=8,
        description="Quantize to this many bits per weight; a command that loads a model keeps the result.",
    )
    q_group_size: int | None = Field(
        None,
        ge=16,
        le=128,
        description="Weights that share a scale: 32, 64 or 128 for affine, 16 for nvfp4, 32 for mxfp4 and mxfp8.",
    )
    q_mode: Literal["affine", "mxfp4", "nvfp4", "mxfp8"] = Field("affine", description="How numbers are quantized.")
    draft_model: str = Field(
        "", description="Small model of the same tokenizer that proposes tokens for the model to check."
    )
    num_draft_tokens: int = Field(3, ge=1, le=64, description="Tokens the draft model proposes at a time.")


class Sampling(Table):
    """How the next token is chosen; the names are mlx_lm's."""

    max_tokens: int = Field(256, ge=1, description="Longest answer, in tokens.")
    temp: float = Field(0.0, ge=0.0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="Sample from the smallest set of tokens with this probability."
    )
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Drop tokens below this share of the likeliest.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens; 0 is all.")
    min_tokens_to_keep: int = Field(1, ge=1, description="Tokens that min-p never drops.")
    xtc_probability: float = Field(0.0, ge=0.0, le=1.0, description="Probability that XTC drops the likeliest tokens.")
    xtc_threshold: float = Field(0.1, ge=0.0, le=0.5, description="Tokens likelier than this are ones XTC may drop.")
    repetition_penalty: float = Field(1.0, gt=0.0, description="Divides the chance of recent tokens; 1 is none.")
    seed: int | None = Field(None, ge=0, description="Seed of the sampler.")
    stop: tuple[str, ...] = Field((), description="End the answer before this text (may be repeated).")


class Answering(Table):
    """How a question and its passages become an answer."""

    system_prompt: str = Field(
        "Answer from the numbered passages only, in a few words. Cite passages like [1]. "
        "If they do not hold the answer, say: Not in the documents.",
        description="Instruction to the model.",
    )


class Caching(Table):
    """What of the model's work is kept for the next question; names of mlx_lm where it has them."""

    max_kv_size: int | None = Field(
        None, ge=8, description="Keep only the last N tokens (and the first 4) of a long text."
    )
    kv_bits: int | None = Field(
        None, ge=2, le=8, description="Bits of the kept keys and values; none quantizes nothing."
    )
    kv_group_size: int = Field(64, ge=32, le=128, description="Group size of quantized keys and values.")
    quantized_kv_start: int = Field(5000, ge=0, description="Quantize keys and values from this many tokens on.")
    prefill_step_size: int = Field(2048, ge=16, description="Prompt tokens processed at once; fewer take less memory.")
    decode_concurrency: int = Field(
        0, ge=0, le=256, description="Most answers generated at once; 0 finds the best by measuring, from 16."
    )
    cache_memory: int = Field(
        512, ge=0, description="Memory for keys and values of earlier prompts, in MiB; 0 keeps none."
    )
    cache_disk: int = Field(0, ge=0, description="Disk for keys and values of earlier prompts, in MiB; 0 keeps none.")
    cache_disk_bits: int = Field(
        0, ge=0, le=8, description="Bits of keys and values on disk; 0 keeps them as they are."
    )
    lookup: bool = Field(True, description="Draft the next words from the prompt where that pays.")


class Making(Table):
    """How examples are made from documents."""

    makers: tuple[str, ...] = Field((), description="Makers to use (may be repeated); the usual ones unless given.")
    num_questions: int = Field(0, ge=0, description="Stop when this many are kept; 0 goes through all passages.")
    per_passage: int = Field(6, ge=1, description="Most questions kept of one passage.")
    alike_per_document: int = Field(
        6, ge=1, description="Most questions of one document that start with the same three words."
    )
    unanswerable_share: float = Field(
        0.15, ge=0.0, le=0.9, description="Largest share of questions that the documents do not answer."
    )
    near_question: float = Field(0.9, gt=0.0, le=1.0, description="Similarity from which two questions are the same.")
    round_trip: Literal["full", "retrieval", "none"] = Field(
        "full",
        description="Check that retrieval finds the passage, and that the model answers with it and not without.",
    )
    found_within: int = Field(5, ge=1, description="Rank within which retrieval must find the passage.")
    read_f1: float = Field(0.5, ge=0.0, le=1.0, description="F1 from which the model's answer is the right one.")
    keep_hard: bool = Field(
        False, description="Keep what only the round trip refused, with a tag such as hard:retrieval."
    )
    make_seed: int = Field(0, description="Seed of the order of passages and of what the model makes.")


class Evaluating(Table):
    """How answers are scored."""

    measures: tuple[str, ...] = Field(
        (), description="Measures to compute (may be repeated); all of the formulas unless given."
    )
    right_by: str = Field("correct", description="Measure that says whether an answer is right.")
    right_from: float = Field(0.5, ge=0.0, le=1.0, description="Value of that measure from which it is.")
    encoder_measures: bool = Field(False, description="Also compare answers and passages by the index's encoder.")
    attribution: bool = Field(
        False, description="Also measure which passages each answer used (log-probabilities without each)."
    )
    judge: str = Field("", description="Model that judges whether the passages support the answers; none unless given.")
    interval: float = Field(0.95, gt=0.5, lt=1.0, description="Confidence of the intervals.")
    resamples: int = Field(
        2000, ge=100, description="Bootstrap samples of an interval; documents are what is resampled."
    )
    eval_seed: int = Field(0, description="Seed of samples and intervals.")


class Training(Table):
    """How an adapter is trained; the names are mlx_lm's."""

    fine_tune_type: Literal["lora", "dora", "full"] = Field(
        "lora", description="Train low-rank matrices, those with a magnitude (dora), or the layers themselves."
    )
    rank: int = Field(8, ge=1, le=1024, description="Rank of the low-rank matrices.")
    scale: float = Field(2.0, gt=0, description="Factor of the low-rank product; PEFT's alpha is scale times rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs of the low-rank matrices left out.")
    lora_keys: tuple[str, ...] = Field(
        (), description="Adapt this layer, such as self_attn.q_proj (may be repeated); every linear layer unless given."
    )
    resume_adapter_file: str = Field(
        "",
        description="Adapter whose weights training begins with: a directory, NAME[@VERSION], or a .safetensors file.",
    )
    num_layers: int = Field(-1, ge=-1, description="Blocks to train, counted from the last; -1 is all.")
    qat: int = Field(0, description="Train for a fused model of this many bits (4 or 8); 0 is off.", ge=0, le=8)
    optimizer: Literal["adamw", "adam", "adafactor", "lion", "muon", "sgd"] = Field(
        "adamw", description="Rule that turns gradients into steps."
    )
    learning_rate: float = Field(2e-4, gt=0, description="Step size of the optimizer, at its highest.")
    lr_schedule: Literal["constant", "linear", "cosine", "restarts"] = Field(
        "cosine", description="How the step size falls; restarts is cosine again and again."
    )
    warmup: int = Field(0, ge=0, description="Updates in which the step size rises from 0.")
    restart_every: int = Field(0, ge=0, description="Updates between restarts; 0 is a quarter of all.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of adamw, lion and muon.")
    clip: float = Field(1.0, ge=0, description="Longest gradient (norm over all weights); 0 is no limit.")
    iters: int = Field(1000, ge=1, description="Batches to train on.")
    epochs: float = Field(0.0, ge=0, description="Passes over the data, instead of --iters.")
    batch_size: int = Field(4, ge=1, description="Rows in a batch, in each process.")
    grad_accumulation_steps: int = Field(1, ge=1, description="Batches whose gradients make one update.")
    max_seq_length: int = Field(2048, ge=8, description="Longest row, in tokens.")
    grad_checkpoint: bool = Field(False, description="Compute activations again instead of keeping them.")
    mask_prompt: bool = Field(True, description="Leave everything but the assistant's turns out of the loss.")
    shared_context: bool = Field(True, description="Run passages once for all questions about them in a batch.")
    answer_head: bool = Field(True, description="Compute logits only where there is loss.")
    logits_chunk: int = Field(1024, ge=0, description="Tokens whose logits are in memory at once; 0 is all.")
    trunk_cache: bool = Field(False, description="Keep what the untrained first layers give, for later epochs.")
    distractors: int = Field(0, ge=0, le=50, description="Passages of other questions put beside the right ones.")
    train_seed: int = Field(0, ge=0, description="Seed of the first weights, the order of the data and dropout.")
    steps_per_report: int = Field(
        10, ge=1, description="Batches of the mean loss that is shown, and between lines where there is no terminal."
    )
    steps_per_eval: int = Field(200, ge=1, description="Batches between validations.")
    val_batches: int = Field(25, ge=-1, description="Batches of a validation; -1 is all, 0 is none.")
    val_questions: int = Field(0, ge=0, description="Validation questions that are answered and scored; 0 is none.")
    best_by: Literal["loss", "exact_match", "f1"] = Field("loss", description="What the kept weights were best at.")
    patience: int = Field(0, ge=0, description="Stop after this many validations without a better one; 0 is never.")
    save_every: int = Field(100, ge=1, description="Batches between states to resume from.")
    keep_checkpoints: int = Field(2, ge=1, description="States that are kept.")


class Quantizing(Table):
    """How weights are written and made smaller; the names are mlx_lm's."""

    dtype: Literal["auto", "keep", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Type of what is not quantized; auto is float16 on M1 and M2 where that is safe, else the checkpoint's own.",
    )
    quant_predicate: Literal["", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] = Field(
        "", description="Mixed-bit recipe of mlx_lm: more bits for some layers."
    )
    quantizer: Literal["plain", "awq", "gptq", "dwq", "dynamic"] = Field(
        "plain",
        description="Round, or calibrate on texts of yours: awq, gptq, dwq (distils), dynamic (bits by sensitivity).",
    )
    calibration_samples: int = Field(32, ge=1, description="Pieces of text to calibrate and to measure on.")
    calibration_tokens: int = Field(256, ge=8, description="Tokens of one piece.")
    target_bpw: float = Field(5.0, gt=2, le=8, description="Bits per weight that dynamic aims at.")
    high_bits: int = Field(
        6, ge=3, le=8, description="Bits of the layers that dynamic spares; q_bits are those of the others."
    )
    dwq_learning_rate: float = Field(1e-6, gt=0, description="Step size of dwq.")
    dwq_batch: int = Field(4, ge=1, description="Pieces of text in one step of dwq.")
    accept_difference: bool = Field(False, description="Keep a converted model whose logits differ from the reference.")


class Experimenting(Table):
    """How systems are compared."""

    primary: str = Field("", description="Measure that decides; the one that says what is right unless given.")
    guardrails: tuple[str, ...] = Field(
        (), description="Measure that must not fall by more than the margin (may be repeated)."
    )
    goal: Literal["difference", "noninferiority", "equivalence"] = Field(
        "difference", description="What to show: a difference, that B is not worse than A, or that both are alike."
    )
    effect: float = Field(0.05, gt=0, le=1.0, description="Difference of the primary measure that should be seen.")
    margin: float = Field(0.02, gt=0, le=1.0, description="Difference that would not matter.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of calling a difference that is none.")
    power: float = Field(0.8, gt=0.5, lt=1.0, description="Chance of seeing the effect if it is there.")
    correction: Literal["holm", "bh", "none"] = Field(
        "holm", description="Correction of the primary p-values over several systems."
    )
    stopping: Literal["fixed", "sequential"] = Field(
        "fixed", description="Ask all questions, or stop as soon as it is decided (always-valid)."
    )
    max_questions: int = Field(0, ge=0, description="Most questions to ask; 0 is all.")
    block_questions: int = Field(
        32, ge=1, description="Questions that one system answers before it is the other's turn."
    )
    timing_questions: int = Field(
        20, ge=0, description="Questions that are asked one by one, in turn, to measure time."
    )
    pilot_questions: int = Field(0, ge=0, description="Validation questions to ask when planning, for power and cost.")
    permutations: int = Field(9999, ge=99, description="Samples of permutation tests and of intervals.")
    ab_seed: int = Field(0, ge=0, description="Seed of the order of questions and systems, and of samples.")


class Memory(Table):
    """What the machine may give."""

    memory_budget: str = Field(
        "",
        description="Most memory for everything mlxrag holds, such as 6GB; what the machine can safely give unless given.",
    )
    memory_reserve: str = Field("1.5GB", description="Memory left to the system and to other programs.")
    keep_alive: str = Field("5m", description="Unload an idle model after this time, such as 5m or 90s; 0 keeps it.")
    vector_cache: int = Field(
        256, ge=0, description="Disk for vectors of texts that were encoded before, in MiB; 0 keeps none."
    )
    memory_wait: str = Field("30s", description="Wait this long for memory before an answer is refused.")
    device: Literal["auto", "gpu", "cpu"] = Field("auto", description="Where the model computes.")


class Tracking(Table):
    """What MLflow is told."""

    track: bool = Field(True, description="Mirror runs to MLflow, in the workspace.")
    track_traces: int = Field(50, ge=0, description="Most answers of a run that become traces.")
    track_seconds: float = Field(
        5.0, ge=0, description="Seconds between samples of processor and memory; 0 takes none."
    )
    ui_port: int = Field(5051, ge=1, le=65535, description="Loopback port of MLflow's pages.")


class Settings(Table):
    """All tables; a TOML file with some of them is a system or a job."""

    reading: Reading = Reading()
    chunking: Chunking = Chunking()
    encoding: Encoding = Encoding()
    retrieval: Retrieval = Retrieval()
    model: ModelSettings = ModelSettings()
    sampling: Sampling = Sampling()
    answering: Answering = Answering()
    caching: Caching = Caching()
    making: Making = Making()
    evaluating: Evaluating = Evaluating()
    training: Training = Training()
    quantizing: Quantizing = Quantizing()
    experimenting: Experimenting = Experimenting()
    memory: Memory = Memory()
    tracking: Tracking = Tracking()


TABLES: dict[str, type[Table]] = {
    name: field.annotation for name, field in Settings.model_fields.items() if isinstance(field.annotation, type)
}
HOME: dict[str, str] = {key: table for table, cls in TABLES.items() for key in cls.keys}


def read(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read settings from flags, environment, a TOML file and the defaults, in that order of precedence.

    Args:
        path: TOML file with any of the tables, or None.
        flags: flat `{key: value}` as the command line gave them; None and () mean "not given".

    Raises:
        BadInput: not TOML, an unknown table or key (names the nearest), or a value beyond its limits; all faults at once.
    """
    tables: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    origin: dict[tuple[str, str], str] = {}
    if path is not None:
        for table, values in _toml(path).items():
            if table not in TABLES or not isinstance(values, dict):
                faults.append(f"{path}: unknown table [{table}]{nearest(table, TABLES)}")
                continue
            for key, value in values.items():
                if key not in TABLES[table].model_fields:
                    faults.append(f"{path}: unknown key {key!r} in [{table}]{_near_key(key)}")
                else:
                    tables.setdefault(table, {})[key] = value
                    origin[table, key] = str(path)
    for key, table in HOME.items():
        text = os.environ.get(f"MLXRAG_{key.upper()}")
        if text is not None:
            repeated = str(TABLES[table].model_fields[key].annotation).startswith("tuple")
            tables.setdefault(table, {})[key] = tuple(text.split(",")) if repeated else text
            origin[table, key] = f"environment variable MLXRAG_{key.upper()}"
    for key, value in (flags or {}).items():
        if value is not None and value != ():
            tables.setdefault(HOME[key], {})[key] = value
            origin[HOME[key], key] = f"--{key.replace('_', '-')}"
    made: dict[str, Table] = {}
    for table, values in tables.items():
        try:
            made[table] = TABLES[table](**values)
        except Invalid as error:
            for key, what, value in error.faults:
                faults.append(f"{origin.get((table, key), table)}: {key} in [{table}]: {what}, not {value!r}")
    if faults:
        raise BadInput("; ".join(faults))
    return Settings(**made)


def given(path: Path | None, flags: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys that a file, the environment or a flag sets, as against those left to their defaults."""
    keys = {key for key in HOME if f"MLXRAG_{key.upper()}" in os.environ}
    keys |= {key for key, value in flags.items() if value is not None and value != ()}
    if path is not None:
        keys |= {key for values in _toml(path).values() if isinstance(values, dict) for key in values}
    return frozenset(keys)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such settings file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def _near_key(key: str) -> str:
    hint = nearest(key, HOME)
    if not hint:
        return ""
    near = hint.split("'")[1]
    return f"{hint[:-1]} in [{HOME[near]}]?"
