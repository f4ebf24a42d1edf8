"""PEFT adapter <-> ours, with a proof; and adapters of older mlx-lm versions -> ours.

PEFT keeps `lora_A.weight (r, in)` and `lora_B.weight (out, r)` under `base_model.model.<module>`, and scales by
alpha / r, or alpha / sqrt(r) with rsLoRA; ranks and alphas may differ between modules.  mlx-lm keeps the transposes and
one rank and one scale for all, so different ones are padded with zeros and folded into `lora_b`.  What has no
counterpart in mlx-lm is refused by name.  Source: peft 0.21, `tuners/lora/layer.py` and `utils/save_and_load.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput, Damaged, Mismatch, NotFound, nearest
from mlxrag.model.adapter import CONFIG, WEIGHTS, Adapter, load_tensors, read_adapter
from mlxrag.model.attach import Adapters, adaptable, can_adapt, parent_of, weight_of
from mlxrag.workspace import write_json

PEFT_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TENSOR = re.compile(
    r"(?P<path>.+?)\.(?P<leaf>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?P<rest>(\.\w+)*)"
)
EXPERT = re.compile(r"(?P<before>.+)\.experts\.(?P<number>\d+)\.(?P<name>\w+)")
# Settings of PEFT that mlx-lm has no counterpart of, and the values that switch them off.
NOT_OURS: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "fan_in_fan_out": (False, None),
    "megatron_config": (None, {}),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
}
CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made.

    Attributes:
        source: `PEFT` or `mlx-lm`, the format it came from.
        modules: how many modules of the network it changes.
        difference: largest difference between the logits with the new adapter and those by the source's own formula.
        notes: what could not be kept as it was, for people.
    """

    source: str
    modules: int
    difference: float
    notes: tuple[str, ...] = field(default=())


def import_adapter(source: Path, network: nn.Module, target: Path, base: Mapping[str, str]) -> Imported:
    """Write an adapter of PEFT, or of an older mlx-lm, as one of ours.

    Args:
        source: directory with adapter_config.json and the tensors.
        network: the base it is for, without an adapter in use.
        target: directory for the new one; made if it is not there.
        base: name and fingerprint of the network, recorded with it.

    Raises:
        NotFound: no such adapter.
        BadInput: it uses something that mlx-lm has no counterpart of; every such thing is named.
        Mismatch: it does not fit the network, or its logits are not those of its own formula.
        Damaged: a file is cut short, or a tensor holds NaN or infinity.
    """
    if not source.is_dir():
        raise NotFound(f"no adapter at {source}; it is a directory with {CONFIG} and {PEFT_WEIGHTS}")
    config = _json(source / CONFIG)
    if not config.get("peft_type"):
        return _import_old(source, config, network, target, base)
    parts, scales, notes = _read_peft(source, config, network)
    weights, lora, layers = _to_mlx(parts, scales, network, bool(config.get("use_dora")))
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / WEIGHTS), weights, {"format": "mlx"})
    write_json(
        target / CONFIG,
        {
            "fine_tune_type": "dora" if config.get("use_dora") else "lora",
            "num_layers": layers,
            "lora_parameters": lora,
            "model": base.get("name") or config.get("base_model_name_or_path") or "",
            "base": dict(base),
            "from": {"peft": {k: config.get(k) for k in ("r", "lora_alpha", "use_rslora", "base_model_name_or_path")}},
        },
    )
    difference = prove(network, read_adapter(target), parts, scales)
    return Imported("PEFT", len(parts), difference, tuple(notes))


def export_adapter(adapter: Adapter, target: Path, network: nn.Module | None = None) -> None:
    """Write an adapter in PEFT's format, for peft, vLLM and llama.cpp's converter.

    Args:
        adapter: lora or dora.
        target: directory; made if it is not there.
        network: its base, if at hand: lists the layers by name where all of them are adapted.

    Raises:
        BadInput: an adapter of kind full.
    """
    if adapter.kind == "full":
        raise BadInput(f"adapter {adapter.name!r} replaces whole weights, which PEFT has no format for")
    tensors: dict[str, mx.array] = {}
    for path, given in adapter.modules.items():
        a, b = given["lora_a"], given["lora_b"]
        embedded = path.rpartition(".")[2] in ("embed_tokens", "wte", "word_embeddings")
        if a.ndim == 3:
            before, _, name = path.replace(".switch_mlp.", ".\0.").partition(".\0.")
            for number in range(a.shape[0]):
                key = f"{PREFIX}{before}.experts.{number}.{name}"
                tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a[number], b[number]
        elif embedded:
            tensors[f"{PREFIX}{path}.lora_embedding_A"], tensors[f"{PREFIX}{path}.lora_embedding_B"] = a.T, b.T
        else:
            tensors[f"{PREFIX}{path}.lora_A.weight"], tensors[f"{PREFIX}{path}.lora_B.weight"] = a.T, b.T
        if "m" in given:
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = given["m"]
    tensors = {k: mx.contiguous(v.astype(mx.float32)) for k, v in tensors.items()}
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / PEFT_WEIGHTS), tensors, {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_name,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "lora_dropout": float((adapter.config.get("lora_parameters") or {}).get("dropout", 0.0)),
        "target_modules": _targets(adapter, network),
        "bias": "none",
        "use_rslora": False,
        "use_dora": adapter.kind == "dora",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(target / CONFIG, config)


def prove(
    network: nn.Module, adapter: Adapter, parts: Mapping[str, Mapping[str, mx.array]], scales: Mapping[str, float]
) -> float:
    """Return the largest difference between the logits of an adapter in use and those by PEFT's own formula.

    PEFT's formula is worked out on its own tensors: `W + scaling·B·A` as one matrix, for DoRA with its rows brought
    to the lengths of the magnitude vector.

    Raises:
        Mismatch: they differ by more than a thousandth of the largest logit.
    """
    words = network[next(n for n in ("model", "transformer") if n in network)]
    vocabulary = next(
        m.weight.shape[0] for _, m in words.named_modules() if isinstance(m, nn.Embedding | nn.QuantizedEmbedding)
    )
    tokens = (mx.arange(1, 25) * 7919 % vocabulary)[None]
    with Adapters(network) as adapters:
        adapters.use(adapters.add(adapter))
        ours = network(tokens)
    modules = dict(network.named_modules())
    old: list[tuple[Any, Any, Any]] = []
    try:
        for path, given in parts.items():
            if path not in modules or "experts" in given:
                continue
            holder, key = parent_of(network, path)
            old.append((holder, key, holder[key]))
            holder[key] = _merged(modules[path], given, scales[path])
        theirs = network(tokens)
        mx.eval(ours, theirs)
    finally:
        for holder, key, module in old:
            holder[key] = module
    difference = mx.abs(ours - theirs).max().item()
    largest = mx.abs(theirs).max().item()
    assert isinstance(difference, float) and isinstance(largest, float)
    experts = any("experts" in given for given in parts.values())
    if difference > 1e-3 * max(1.0, largest) and not experts:
        raise Mismatch(
            f"adapter {adapter.name!r}: the logits differ by {difference:.2g} from those of PEFT's formula; the base is another one"
        )
    return difference


def _merged(module: nn.Module, given: Mapping[str, mx.array], scale: float) -> nn.Module:
    weight = weight_of(module).astype(mx.float32)
    if "lora_embedding_A" in given:
        whole = weight + scale * (given["lora_embedding_B"] @ given["lora_embedding_A"]).T
        made: nn.Module = nn.Embedding(*whole.shape)
    else:
        whole = weight + scale * (given["lora_B"] @ given["lora_A"])
        made = nn.Linear(whole.shape[1], whole.shape[0], bias="bias" in module)
        if "bias" in module:
            made.bias = module.bias
    if "lora_magnitude_vector" in given:
        whole = (given["lora_magnitude_vector"].reshape(-1) / mx.linalg.norm(whole, axis=1))[:, None] * whole
    made.weight = whole
    return made


def _read_peft(
    source: Path, config: Mapping[str, Any], network: nn.Module
) -> tuple[dict[str, dict[str, mx.array]], dict[str, float], list[str]]:
    """Read PEFT's tensors by module path of the network, and each module's scale."""
    _refuse(source, config)
    notes: list[str] = []
    if (source / "adapter_model.bin").is_file() and not (source / PEFT_WEIGHTS).is_file():
        raise BadInput(
            f"{source}: adapter_model.bin may run code when it is opened; save it as {PEFT_WEIGHTS} with peft"
        )
    modules = {path for path, module in network.named_modules() if can_adapt(module)}
    parts: dict[str, dict[str, mx.array]] = {}
    scales: dict[str, float] = {}
    unknown: list[str] = []
    for key, tensor in load_tensors(source / PEFT_WEIGHTS).items():
        name = key.removeprefix(PREFIX)
        match = TENSOR.fullmatch(name)
        if match is None:
            if not _is_base(name, tensor, network):
                unknown.append(key)
            continue
        theirs = match["path"].removesuffix(".base_layer")
        path = _path(theirs, modules)
        if path is None:
            unknown.append(key)
            continue
        parts.setdefault(path, {})[match["leaf"]] = tensor.astype(mx.float32)
        if EXPERT.fullmatch(theirs):
            number = int(EXPERT.fullmatch(theirs)["number"])  # type: ignore[index]
            parts[path].pop(match["leaf"])
            parts[path].setdefault("experts", mx.array(0))
            parts[path][f"{match['leaf']}.{number}"] = tensor.astype(mx.float32)
        scales[path] = _scale(config, theirs)
    unknown.sort()
    if unknown:
        hint = nearest(unknown[0].removeprefix(PREFIX), modules)
        raise Mismatch(
            f"{source}: {len(unknown)} tensors have no place in this model, such as {unknown[0]}{hint}; the adapter is for "
            f"another architecture ({config.get('base_model_name_or_path') or 'it does not say which'})"
        )
    if not parts:
        raise Damaged(f"{source / PEFT_WEIGHTS}: holds no adapter tensors; save it again with peft")
    bad = [p for p, given in parts.items() if not all(mx.isfinite(t).all().item() for t in given.values())]
    if bad:
        raise Damaged(f"{source / PEFT_WEIGHTS}: {bad[0]} holds NaN or infinity; train the adapter again")
    if config.get("use_dora") and config.get("lora_dropout"):
        notes.append("dropout is left out: mlx-lm's dora applies it in another place")
    return parts, scales, notes


def _refuse(source: Path, config: Mapping[str, Any]) -> None:
    faults = []
    if str(config["peft_type"]).upper() != "LORA":
        faults.append(f"peft_type {config['peft_type']}")
    for name, fine in NOT_OURS.items():
        if config.get(name) not in fine:
            faults.append(f"{name} {config[name]!r}")
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGED_BASE):
        faults.append(
            f"init_lora_weights {start!r}, which changes the base; convert it with peft's path_initial_model_for_weight_conversion"
        )
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        faults.append(f"task_type {task!r}")
    if faults:
        raise BadInput(f"{source}: mlx-lm has no counterpart of {'; '.join(faults)}")


def _scale(config: Mapping[str, Any], path: str) -> float:
    rank = _pattern(config.get("rank_pattern"), path, config.get("r", 8))
    alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha", 8))
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _pattern(patterns: Mapping[str, float] | None, path: str, otherwise: float) -> float:
    """The value of the first pattern that a module's path ends in, as PEFT's `get_pattern_key` finds it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return otherwise


def _path(theirs: str, modules: set[str]) -> str | None:
    """Where PEFT's module is in the network: under the same path, in stacked experts, or under a model's wrapper."""
    expert = EXPERT.fullmatch(theirs)
    tries = [theirs]
    if expert:
        tries.append(f"{expert['before']}.switch_mlp.{expert['name']}")
    tries += [
        f"{wrapper}{t}" for t in list(tries) for wrapper in ("model.", "language_model.", "language_model.model.")
    ]
    tries += [t.removeprefix("model.") for t in list(tries)]
    return next((t for t in tries if t in modules), None)


def _is_base(name: str, tensor: mx.array, network: nn.Module) -> bool:
    """Return whether a tensor is the base's own, which PEFT saves beside adapted embeddings."""
    path = name.removesuffix(".weight").removesuffix(".base_layer")
    modules = dict(network.named_modules())
    if path == "lm_head" and path not in modules:
        path = "model.embed_tokens"
    if path not in modules or "weight" not in modules[path]:
        return False
    weight = weight_of(modules[path])
    same = weight.shape == tensor.shape
    return same and bool(mx.allclose(weight.astype(mx.float32), tensor.astype(mx.float32), atol=1e-2, rtol=1e-2).item())


def _to_mlx(
    parts: Mapping[str, Mapping[str, mx.array]], scales: Mapping[str, float], network: nn.Module, dora: bool
) -> tuple[dict[str, mx.array], dict[str, Any], int]:
    """Return mlx-lm's tensors, `lora_parameters` and `num_layers`."""
    modules = dict(network.named_modules())
    pairs: dict[str, tuple[mx.array, mx.array]] = {}
    for path, given in parts.items():
        try:
            pairs[path] = _pair(given)
        except KeyError as error:
            raise Damaged(f"{path}: {error.args[0]} is missing; save the adapter again with peft") from error
    ranks = {path: b.shape[-1] if b.ndim == 3 else b.shape[0] for path, (_, b) in pairs.items()}
    rank = max(ranks.values())
    one = len(set(ranks.values())) == 1 and len({scales[p] for p in pairs}) == 1
    scale = next(iter(scales.values())) if one else 1.0
    weights: dict[str, mx.array] = {}
    for path, (a, b) in pairs.items():
        if not one:
            pad = rank - ranks[path]
            wide = a.ndim == 3
            a = mx.pad(a, [(0, 0), (0, pad), (0, 0)] if wide else [(0, 0), (0, pad)])
            b = mx.pad(b * scales[path], [(0, 0), (0, 0), (0, pad)] if wide else [(0, pad), (0, 0)])
        weights[f"{path}.lora_a"], weights[f"{path}.lora_b"] = mx.contiguous(a), mx.contiguous(b)
        if dora:
            if "lora_magnitude_vector" not in parts[path]:
                raise Damaged(f"{path}: lora_magnitude_vector is missing; save the adapter again with peft")
            weights[f"{path}.m"] = parts[path]["lora_magnitude_vector"].reshape(-1)
    keys, layers = _keys(set(pairs), network)
    for path in adaptable(modules, network.layers, layers, keys):
        if path not in pairs:
            weights.update(_nothing(path, modules[path], rank, dora))
    mx.eval(weights)
    return weights, {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(keys)}, layers


def _pair(given: Mapping[str, mx.array]) -> tuple[mx.array, mx.array]:
    if "experts" in given:
        numbers = sorted({int(k.rpartition(".")[2]) for k in given if k != "experts"})
        a = mx.stack([given[f"lora_A.{n}"] for n in numbers])
        return a, mx.stack([given[f"lora_B.{n}"] for n in numbers])
    if "lora_embedding_A" in given:
        return given["lora_embedding_A"].T, given["lora_embedding_B"].T
    return given["lora_A"].T, given["lora_B"].T


def _nothing(path: str, module: nn.Module, rank: int, dora: bool) -> dict[str, mx.array]:
    """Tensors that change nothing, for layers that mlx-lm's keys and layers take in and the adapter does not."""
    from mlxrag.model.attach import shapes

    made = {f"{path}.{leaf}": mx.zeros(shape) for leaf, shape in shapes(module, rank, "lora").items()}
    if dora:
        made[f"{path}.m"] = mx.linalg.norm(weight_of(module).astype(mx.float32), axis=1)
    return made


def _keys(paths: set[str], network: nn.Module) -> tuple[tuple[str, ...], int]:
    """Return the keys that name these modules, and how many of the last blocks they are in."""
    order = {id(block): i for i, block in enumerate(network.layers)}
    blocks = {path: order[id(module)] for path, module in network.named_modules() if id(module) in order}
    keys: dict[str, None] = {}
    first = len(order)
    for path in sorted(paths):
        block = next((b for b in blocks if path.startswith(b + ".")), None)
        keys[path[len(block) + 1 :] if block else path] = None
        if block:
            first = min(first, blocks[block])
    layers = len(order) - first
    return tuple(keys), layers if 0 < layers < len(order) else -1


def _targets(adapter: Adapter, network: nn.Module | None) -> list[str] | str:
    """Name the modules for PEFT: by their last names where every such layer is adapted, else by one expression."""
    paths = [p for p in adapter.modules if ".switch_mlp." not in p]
    names = sorted({p.rpartition(".")[2] for p in paths})
    if network is not None:
        every = {p for p, m in network.named_modules() if can_adapt(m) and p.rpartition(".")[2] in names}
        if every == set(paths):
            return names
    numbers = sorted({n for p in paths for n in re.findall(r"\.(\d+)\.", p)}, key=int)
    inner = sorted({re.escape(re.sub(r"\.\d+\.", ".#.", p)).replace(r"\#", "#") for p in paths})
    return "|".join(p.replace("#", f"({'|'.join(numbers)})") for p in inner)


def _import_old(
    source: Path, config: dict[str, Any], network: nn.Module, target: Path, base: Mapping[str, str]
) -> Imported:
    """Bring over what an older mlx-lm wrote: `lora_layers`, .npz weights."""
    notes = []
    fresh = dict(config)
    if "num_layers" not in fresh and "lora_layers" in fresh:
        fresh["num_layers"] = fresh.pop("lora_layers")
        notes.append("lora_layers is called num_layers now")
    lora = dict(fresh.get("lora_parameters") or {})
    if lora and "scale" not in lora and "alpha" in lora:
        lora["scale"] = lora["alpha"] / lora["rank"]
        notes.append(f"scale is {lora['scale']:g}: alpha {lora['alpha']} / rank {lora['rank']}")
    fresh["lora_parameters"] = lora
    packed = sorted(source.glob("*.npz"))
    if (source / WEIGHTS).is_file():
        weights = load_tensors(source / WEIGHTS)
    elif packed:
        weights = {}
        with suppress(RuntimeError, ValueError):
            loaded = mx.load(str(packed[0]))
            weights = dict(loaded) if isinstance(loaded, dict) else {}
        if not weights:
            raise Damaged(f"{packed[0]}: cannot be read; train the adapter again")
        notes.append(f"{packed[0].name} is {WEIGHTS} now")
    else:
        raise NotFound(f"{source}: holds neither {WEIGHTS} nor {PEFT_WEIGHTS}")
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / WEIGHTS), weights, {"format": "mlx"})
    write_json(target / CONFIG, {**fresh, "base": dict(base)})
    adapter = read_adapter(target)
    with Adapters(network) as adapters:
        adapters.add(adapter)
    return Imported("mlx-lm", len(adapter.modules), 0.0, tuple(notes))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{path}: is not there, so this is no adapter") from error
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: is not JSON ({error}); get the adapter again") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path}: is not a JSON object; get the adapter again")
    return value
