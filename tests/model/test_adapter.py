"""Adapters are read whole and sound or refused in words; using and dropping one is exact."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxrag.errors import BadInput, Damaged, Mismatch, NotFound
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import Adapters, attach, detach, fingerprint, resident
from tests.toys import fresh_load, llama_toy, qwen_toy, write_adapter

WORDS = mx.array([[1, 5, 9, 2, 7]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three lora adapters of several shapes, a dora and one of the embedding, for the llama toy."""
    root = tmp_path_factory.mktemp("adapters")
    toy = llama_toy()
    return {
        "a": write_adapter(root / "a", toy, seed=1),
        "b": write_adapter(root / "b", toy, seed=2, rank=8, scale=0.5, layers=2, keys=None),
        "c": write_adapter(root / "c", toy, seed=3, kind="dora"),
        "e": write_adapter(root / "e", toy, seed=4, keys=("model.embed_tokens", "self_attn.q_proj"), size=0.02),
    }


@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("name", ["a", "b", "c", "e"])
def test_an_adapter_in_use_equals_a_fresh_load_by_mlx_lm(folders: dict[str, Path], name: str, bits: int) -> None:
    """The logits are mlx_lm's, bit for bit, on a plain and on a quantized base."""
    network = llama_toy(bits=bits)
    if (name, bits) == ("b", 4):
        folders = {"b": folders["b"]}
    attach(network, folders[name])
    assert mx.array_equal(network(WORDS), fresh_load(llama_toy(bits=bits), folders[name])(WORDS)).item()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(st.sampled_from(["a", "b", "c", "e", None]), min_size=1, max_size=8))
def test_any_walk_between_adapters_ends_exactly_where_it_says(folders: dict[str, Path], path: list[str | None]) -> None:
    """The swap law: after a walk base -> A -> B -> ... -> none the logits are those of its last stop, bit for bit."""
    network = llama_toy()
    plain = network(WORDS)
    with Adapters(network) as adapters:
        for folder in folders.values():
            adapters.add(folder)
        expected = {None: plain}
        for name in folders:
            adapters.use(name)
            expected[name] = network(WORDS)
        for stop in path:
            adapters.use(stop)
        assert mx.array_equal(network(WORDS), expected[path[-1]]).item()
    assert mx.array_equal(network(WORDS), plain).item()
    assert len({name: None for name, _ in network.named_modules()}) == len(dict(llama_toy().named_modules()))


def test_detaching_leaves_the_very_objects_of_the_base(folders: dict[str, Path]) -> None:
    """After none, every module is the one that was there at the start, dora and embedding included."""
    network = llama_toy()
    before = {name: id(module) for name, module in network.named_modules()}
    for name in folders:
        attach(network, folders[name])
    assert resident(network).names == ("a", "b", "c", "e")
    detach(network)
    assert {name: id(module) for name, module in network.named_modules()} == before


def test_putting_an_adapter_on_does_not_move_the_samplers_random_numbers(folders: dict[str, Path]) -> None:
    """mlx-lm's constructors draw numbers; ours give them back."""
    network = llama_toy()
    mx.random.seed(7)
    alone = mx.random.uniform(shape=(3,))
    mx.random.seed(7)
    attach(network, folders["c"])
    assert mx.array_equal(mx.random.uniform(shape=(3,)), alone).item()


def test_a_full_adapter_replaces_parameters_and_gives_them_back(tmp_path: Path) -> None:
    """Kind full: whole tensors by their plain names."""
    network = llama_toy()
    plain = network(WORDS)
    folder = tmp_path / "full"
    folder.mkdir()
    name = "model.layers.2.mlp.down_proj.weight"
    weight = mx.random.normal((64, 96)) * 0.1
    mx.save_safetensors(str(folder / "adapters.safetensors"), {name: weight})
    (folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "full", "num_layers": 1}))
    attach(network, folder)
    assert mx.array_equal(network(WORDS), fresh_load(llama_toy(), folder)(WORDS)).item()
    detach(network)
    assert mx.array_equal(network(WORDS), plain).item()


def test_a_network_with_adapters_is_let_go_of_with_its_last_reference(folders: dict[str, Path]) -> None:
    """No circle of references keeps its memory."""
    import weakref

    network = llama_toy()
    attach(network, folders["c"])
    gone = weakref.ref(network)
    del network
    assert gone() is None


def test_dropping_one_in_use_takes_it_off_and_its_name_is_gone(folders: dict[str, Path]) -> None:
    """Memory is let go of by name; the nearest name is told for a typo."""
    network = llama_toy()
    adapters = resident(network)
    attach(network, folders["a"])
    attach(network, folders["b"])
    held = adapters.nbytes
    adapters.drop("b")
    assert adapters.active is None and 0 < adapters.nbytes < held
    with pytest.raises(NotFound, match="no adapter 'b' is resident"):
        adapters.use("b")


def test_an_adapter_of_another_base_is_refused_naming_both(tmp_path: Path) -> None:
    """The fingerprint is of weights, not of shapes; the same shape is taken only when asked for."""
    one, other = llama_toy(seed=0), llama_toy(seed=5)
    base = {"name": "models/one@v1", "fingerprint": fingerprint(one)}
    folder = write_adapter(tmp_path / "a", one, base=base)
    attach(one, folder, base_name="models/one@v1")
    with pytest.raises(Mismatch, match=r"trained on models/one@v1 \([0-9a-f]{16}\), not on models/two@v1"):
        attach(other, folder, base_name="models/two@v1")
    attach(other, folder, any_base=True)
    assert fingerprint(llama_toy(seed=0)) == fingerprint(llama_toy(seed=0)) != fingerprint(llama_toy(bits=4))


def test_a_base_of_another_shape_is_refused_with_the_tensors_that_do_not_fit(folders: dict[str, Path]) -> None:
    """Every fault is counted, the first few are named."""
    with pytest.raises(Mismatch, match=r"layers and the base has|where the base needs|no tensors for it|has no layer"):
        attach(qwen_toy(layers=2), folders["a"])
    network = llama_toy(intermediate_size=128)
    with pytest.raises(
        Mismatch, match=r"model\.layers\.0\.mlp\.down_proj\.lora_a: \(96, 4\) where the base needs \(128, 4\)"
    ):
        attach(network, folders["a"])


def test_a_partial_file_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A missing layer, which mlx_lm accepts in silence, and a missing half are both told."""
    weights = mx.load(str(folders["a"] / "adapters.safetensors"))
    assert isinstance(weights, dict)
    config = (folders["a"] / "adapter_config.json").read_text()
    for gone, kind, match in (
        ("model.layers.1.self_attn.q_proj.", Mismatch, r"layers\.1\.self_attn\.q_proj: the adapter says it changes"),
        ("model.layers.1.self_attn.q_proj.lora_b", Damaged, r"layers\.1\.self_attn\.q_proj\.lora_b is missing"),
    ):
        folder = tmp_path / str(len(gone))
        folder.mkdir()
        kept = {k: v for k, v in weights.items() if not k.startswith(gone)}
        mx.save_safetensors(str(folder / "adapters.safetensors"), kept)
        (folder / "adapter_config.json").write_text(config)
        with pytest.raises(kind, match=match):
            attach(llama_toy(), folder)


def test_files_that_are_no_sound_adapter_are_refused_in_words(folders: dict[str, Path], tmp_path: Path) -> None:
    """NaN, a cut file, an older mlx-lm's format, PEFT's, a configuration that says too little."""
    good = json.loads((folders["a"] / "adapter_config.json").read_text())
    raw = (folders["a"] / "adapters.safetensors").read_bytes()
    weights = mx.load(str(folders["a"] / "adapters.safetensors"))
    assert isinstance(weights, dict)

    def folder(name: str, config: object = good, data: bytes = raw, file: str = "adapters.safetensors") -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / file).write_bytes(data)
        (path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return path

    nan = folder("nan")
    mx.save_safetensors(
        str(nan / "adapters.safetensors"), {**weights, next(iter(weights)): mx.full((64, 4), float("nan"))}
    )
    old = {k: v for k, v in good.items() if k != "num_layers"} | {"lora_layers": 3}
    alpha = {**good, "lora_parameters": {"rank": 4, "alpha": 8}}
    cases: list[tuple[Path, type[Exception], str]] = [
        (nan, Damaged, "holds NaN or infinity"),
        (folder("cut", data=raw[:-100]), Damaged, "cut short"),
        (folder("text", data=b"hello"), Damaged, "cut short or no safetensors"),
        (folder("npz", file="adapters.npz"), BadInput, "npz weights of an older mlx-lm"),
        (folder("old", old), BadInput, "lora_layers"),
        (folder("alpha", alpha), BadInput, "alpha 8 is PEFT's word"),
        (folder("peft", {"peft_type": "LORA"}), BadInput, "adapter import"),
        (folder("json", "{"), Damaged, "is not JSON"),
        (folder("list", "[]"), Damaged, "not a JSON object"),
        (folder("kind", {**good, "fine_tune_type": "vera"}), BadInput, "vera"),
        (tmp_path / "nowhere", NotFound, "no adapter at"),
    ]
    for path, kind, match in cases:
        with pytest.raises(kind, match=match):
            read_adapter(path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NotFound, match="is not there"):
        read_adapter(empty)


def test_a_real_adapter_from_mlx_lm_is_read(shared_data: Path) -> None:
    """A file of the wild: alpha beside scale, rank 8, four layers."""
    adapter = read_adapter(shared_data / "adapters" / "mlx-cli" / "adapters")
    assert (adapter.kind, adapter.rank, adapter.scale, adapter.num_layers) == ("lora", 8, 10.0, 4)
    assert adapter.base == "" and "Qwen2.5-0.5B-Instruct" in adapter.base_name
