"""Questions are encoded on the CPU's stream while a model answers, where the rule says so; their vectors are the same."""

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
import pytest

from mlxrag.memory import Ledger, ledger, use
from mlxrag.model.ahead import beside, drop
from mlxrag.model.encode import encode, encode_ahead, load_encoder
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


def test_small_encoders_go_beside_a_model_on_metal_alone(tmp_path, ws, encoder):
    """Not where there is no GPU or its memory is its own, not in fewer bits, and not while the weights are away."""
    assert beside(encoder.hidden, "Metal") and not beside(encoder.hidden, "CUDA") and not beside(encoder.hidden, "CPU")
    wide = write_encoder(tmp_path / "wide", hidden_size=128)
    assert not beside(load_encoder(str(wide), ws, Encoding(encoder_bits=8)).hidden, "Metal")
    encoder.hidden.unload()
    assert not beside(encoder.hidden, "Metal") and not encoder.hidden.loaded


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="there is a GPU")
def test_without_a_gpu_nothing_is_begun(encoder):
    """Questions are encoded when they are asked."""
    assert not encode_ahead(encoder, TEXTS) and not encoder.ahead


def test_vectors_begun_ahead_are_those_of_any_time(encoder):
    """Taken once and only by the same questions; passages and other questions are encoded as ever."""
    told = encode(encoder, TEXTS, "question")
    device, held = mx.default_device(), ledger().held
    assert encode_ahead(encoder, TEXTS, "Metal") and encode_ahead(encoder, TEXTS, "Metal")
    assert mx.default_device() == device and ledger().held > held and not encoder.hidden.unload()
    np.testing.assert_allclose(encode(encoder, TEXTS[:2], "question"), told[:2], atol=2e-6)
    encode(encoder, TEXTS, "passage")
    assert encoder.ahead
    np.testing.assert_allclose(encode(encoder, TEXTS, "question"), told, atol=2e-6)
    assert not encoder.ahead and ledger().held == held and encoder.hidden.unload()


def test_what_was_begun_in_vain_is_given_back(encoder):
    """Other questions take its place; nothing of it stays in the ledger."""
    held = ledger().held
    assert encode_ahead(encoder, TEXTS, "Metal") and encode_ahead(encoder, TEXTS[:2], "Metal")
    assert len(encoder.ahead) == 1
    drop(encoder.ahead)
    assert ledger().held == held


def test_nothing_is_begun_where_the_budget_has_no_room(tmp_path, ws):
    """Nobody gives way for it."""
    before, asked = ledger(), []
    try:
        use(Ledger(10_000_000))
        encoder = load_encoder(str(write_encoder(tmp_path / "encoder")), ws)
        ledger().on_short("never", lambda missing: asked.append(missing) or 0)
        with ledger().reserve("others", "weights", ledger().free()):
            assert not encode_ahead(encoder, TEXTS, "Metal") and not encoder.ahead and not asked
        assert encode_ahead(encoder, TEXTS, "Metal")
        drop(encoder.ahead)
    finally:
        use(before)
