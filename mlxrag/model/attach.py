"""Put adapters on a network, change them in microseconds, take them off exactly; many may be resident at once.

Strategy: a placement is a list of slots, (container, key, what was there, what goes there).  Using an adapter writes
the new values into the slots, using none writes the old ones back, so nothing of the base is ever computed again and
`base -> A -> B -> none` ends with the very objects it began with.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxrag.errors import Mismatch, NotFound, nearest
from mlxrag.memory import ledger
from mlxrag.model import lean
from mlxrag.model.adapter import Adapter, read_adapter


def fingerprint(network: nn.Module) -> str:
    """Return 16 hex digits that stand for a base: its tensors' names, shapes and a sample of each.

    Floats count as float16, so that a model has one fingerprint whether a machine runs it in half or in single
    precision; quantized weights are other weights.

    Cost: reads every tensor once if it was not in memory yet.
    """
    parameters = sorted(tree_flatten(network.parameters()))
    parts = [w.reshape(-1)[:: max(1, w.size // 64)][:64] for _, w in parameters]
    parts = [p.astype(mx.float16) if mx.issubdtype(p.dtype, mx.floating) else p for p in parts]
    mx.eval(parts)
    digest = hashlib.sha256()
    for (path, w), part in zip(parameters, parts, strict=True):
        digest.update(f"{path}{w.shape}".encode())
        digest.update(bytes(memoryview(part)))
    return digest.hexdigest()[:16]


def adaptable(
    modules: Mapping[str, nn.Module], layers: Sequence[nn.Module], num_layers: int, keys: tuple[str, ...] | None = None
) -> list[str]:
    """Return the paths of the modules that mlx-lm would adapt, in the network's order.

    The rule is mlx-lm's: within the last `num_layers` blocks, modules whose path in the block is a key (without keys,
    all that can be adapted); and any module whose whole path is a key.

    Args:
        modules: a network's modules by path, as `dict(network.named_modules())` gives them without an adapter.
        layers: its blocks.
        num_layers: how many blocks, counted from the last; -1 (and, as in mlx-lm, 0) is all.
        keys: paths within a block, or whole paths; None is every layer that can be adapted.
    """
    order = {id(layer): i for i, layer in enumerate(layers)}
    blocks = {path: order[id(module)] for path, module in modules.items() if id(module) in order}
    first = 0 if num_layers <= 0 else max(0, len(layers) - num_layers)
    found = []
    for path, module in modules.items():
        if not can_adapt(module):
            continue
        block = next((b for b in blocks if path.startswith(b + ".")), "")
        inside = bool(block) and blocks[block] >= first and (keys is None or path[len(block) + 1 :] in keys)
        if inside or (keys is not None and path in keys):
            found.append(path)
    return sorted(found, key=_natural)


class Adapters:
    """The adapters resident on one network, of which none or one is in use.

    Adding costs memory for the weights; using one writes a pointer per slot.  Close it to give everything back.
    """

    def __init__(self, network: nn.Module, base_name: str = "") -> None:
        if any("lora_a" in module for _, module in network.named_modules()):
            raise Mismatch("the network already carries adapter layers that are not ours; load the base again")
        self.network: Any = network
        self.base_name = base_name
        self.base = fingerprint(network)
        self.active: str | None = None
        self._modules = {path: module for path, module in network.named_modules() if path}
        self._slots: dict[str, list[tuple[Any, Any, Any, Any]]] = {}
        self._adapters: dict[str, Adapter] = {}
        self._resting: dict[str, Path] = {}
        self._hold = ledger().reserve(f"adapters of {base_name or 'a network'}", "adapter", 0)
        weakref.finalize(self, self._hold.release)

    def __enter__(self) -> Adapters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the resident adapters, in the order they came."""
        return (*self._adapters, *self._resting)

    @property
    def nbytes(self) -> int:
        """Bytes of the resident weights."""
        return sum(adapter.nbytes for adapter in self._adapters.values())

    def __getitem__(self, name: str) -> Adapter:
        self._wake(name)
        if name not in self._adapters:
            raise NotFound(f"no adapter {name!r} is resident{nearest(name, self._adapters)}")
        return self._adapters[name]

    def add(self, adapter: Adapter | str | Path, *, any_base: bool = False) -> str:
        """Make an adapter resident, without using it, and return its name.

        Args:
            adapter: what `read_adapter` gave, or a directory.
            any_base: accept one that was trained on another network of the same shape, such as another precision.

        Raises:
            Mismatch: it belongs to another base (both are named), or a tensor does not fit; all faults at once.
            WontFit: there is no room for it.
        """
        if not isinstance(adapter, Adapter):
            adapter = read_adapter(adapter)
        if adapter.base and adapter.base != self.base and not any_base:
            raise Mismatch(
                f"adapter {adapter.name!r} was trained on {adapter.base_name or 'a base'} ({adapter.base}), not on "
                f"{self.base_name or 'this network'} ({self.base}); load that base, or train the adapter again on this one"
            )
        check(adapter, self._modules, self.network.layers)
        if self.active == adapter.name:
            self.use(None)
        others = sum(a.nbytes for name, a in self._adapters.items() if name != adapter.name)
        self._hold.resize(
            others + adapter.nbytes, helps="fewer resident adapters or a larger --memory-budget would help"
        )
        mx.eval(list(adapter.weights.values()))
        self._slots[adapter.name] = self._place(adapter)
        self._adapters[adapter.name] = adapter
        self._resting.pop(adapter.name, None)
        return adapter.name

    def use(self, name: str | None) -> None:
        """Put a resident adapter into use, or none.

        Raises:
            NotFound: it is not resident.
            WontFit: it rested, and there is no room for it now.
        """
        if name is not None:
            self._wake(name)
        if name is not None and name not in self._slots:
            raise NotFound(f"no adapter {name!r} is resident{nearest(name, self._adapters)}")
        if self.active is not None:
            for container, key, old, _ in self._slots[self.active]:
                container[key] = old
        if name is not None:
            for container, key, _, new in self._slots[name]:
                container[key] = new
        self.active = name

    def drop(self, name: str) -> None:
        """Let go of a resident adapter's memory."""
        self[name]
        if self.active == name:
            self.use(None)
        del self._slots[name], self._adapters[name]
        self._hold.resize(self.nbytes)

    def rest(self, name: str) -> int:
        """Let go of the memory of an adapter that is not in use, and return the bytes that gives back.

        It comes back from its directory when it is asked for; one that has none stays.
        """
        adapter = self._adapters.get(name)
        if adapter is None or name == self.active or not adapter.path.is_dir():
            return 0
        self.drop(name)
        self._resting[name] = adapter.path
        return adapter.nbytes

    def _wake(self, name: str) -> None:
        if name in self._resting:
            self.add(replace(read_adapter(self._resting[name]), name=name), any_base=True)

    def close(self) -> None:
        """Put the base back and let go of every adapter."""
        self.use(None)
        self._slots.clear()
        self._adapters.clear()
        self._resting.clear()
        self._hold.resize(0)

    def _place(self, adapter: Adapter) -> list[tuple[Any, Any, Any, Any]]:
        if adapter.kind == "full":
            slots = []
            for name, w in adapter.weights.items():
                path, _, leaf = name.rpartition(".")
                owner = self._modules[path]
                slots.append((owner, leaf, owner[leaf], w))
            return slots
        placed = []
        for path, tensors in adapter.modules.items():
            parent, key = parent_of(self.network, path)
            placed.append((parent, key, self._modules[path], adapted(self._modules[path], adapter, tensors)))
        return placed


def attach(network: nn.Module, adapter: Adapter | str | Path, *, base_name: str = "", any_base: bool = False) -> str:
    """Put an adapter on a network, in place of the one in use; earlier ones stay resident.

    Returns:
        Its name, for `Adapters.use`.

    Raises:
        Mismatch: it belongs to another base, or does not fit.
    """
    adapters = resident(network, base_name)
    name = adapters.add(adapter, any_base=any_base)
    adapters.use(name)
    return name


def detach(network: nn.Module) -> None:
    """Take the adapter in use off a network, exactly; it stays resident."""
    resident(network).use(None)


def resident(network: nn.Module, base_name: str = "") -> Adapters:
    """Return the set of adapters resident on a network, making it the first time."""
    found = network.__dict__.get("_resident")
    if not isinstance(found, Adapters):
        found = Adapters(network, base_name)
        # The network holds its adapters, not the other way round: a circle would keep its memory until Python
        # happens to look for circles.
        found.network = weakref.proxy(network)
        # Past nn.Module's own __setattr__, which would make a parameter of it.
        object.__setattr__(network, "_resident", found)
    return found


def check(adapter: Adapter, modules: Mapping[str, nn.Module], layers: Sequence[nn.Module]) -> None:
    """Refuse an adapter whose tensors do not fit these modules, or are not all there.

    Args:
        adapter: what is to be put on.
        modules: the base's modules by path.
        layers: the base's blocks.

    Raises:
        Mismatch: all faults at once.
    """
    faults: list[str] = []
    if adapter.num_layers > len(layers):
        faults.append(f"it changes {adapter.num_layers} layers and the base has {len(layers)}")
    if adapter.kind == "full":
        for name, w in adapter.weights.items():
            path, _, leaf = name.rpartition(".")
            there = modules.get(path, {}).get(leaf)
            if not isinstance(there, mx.array):
                faults.append(f"{name}: the base has no such parameter")
            elif there.shape != w.shape:
                faults.append(f"{name}: {w.shape} where the base has {there.shape}")
    else:
        given = adapter.modules
        for path, tensors in given.items():
            if path not in modules or not can_adapt(modules[path]):
                faults.append(f"{path}: the base has no layer there that can be adapted")
                continue
            for leaf, shape in shapes(modules[path], adapter.rank, adapter.kind).items():
                if leaf not in tensors:
                    faults.append(f"{path}.{leaf}: missing")
                elif tensors[leaf].shape != shape:
                    faults.append(f"{path}.{leaf}: {tensors[leaf].shape} where the base needs {shape}")
        missing = [path for path in adaptable(modules, layers, adapter.num_layers, adapter.keys) if path not in given]
        faults += [f"{path}: the adapter says it changes this layer and holds no tensors for it" for path in missing]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise Mismatch(f"adapter {adapter.name!r} does not fit the base: {'; '.join(faults[:4])}{more}")


def shapes(module: nn.Module, rank: int, kind: str = "lora") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the adapter tensors for a module: lora_a, lora_b and, for dora, m."""
    out, inp = dimensions(module)
    if _is_switch(module):
        experts = module.num_experts
        return {"lora_a": (experts, rank, inp), "lora_b": (experts, out, rank)}
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        found: dict[str, tuple[int, ...]] = {"lora_a": (out, rank), "lora_b": (rank, inp)}
        return {**found, "m": (out,)} if kind == "dora" else found
    found = {"lora_a": (inp, rank), "lora_b": (rank, out)}
    return {**found, "m": (out,)} if kind == "dora" else found


def dimensions(module: nn.Module) -> tuple[int, int]:
    """Return rows and columns of a module's weight as if it were not quantized: out and in, or words and dims."""
    rows, columns = module.weight.shape[-2:]
    if "scales" in module:
        columns = columns * 32 // module.bits
    return rows, columns


def weight_of(module: nn.Module) -> mx.array:
    """Return a module's weight, dequantized where it is quantized."""
    if "scales" not in module:
        return module.weight
    return mx.dequantize(
        module.weight,
        module.scales,
        module.get("biases"),
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    )


def adapted(module: nn.Module, adapter: Adapter, tensors: Mapping[str, mx.array]) -> nn.Module:
    """Return mlx-lm's layer over a module of the base, with these adapter tensors, ready for inference."""
    layers = adapter_layers()
    if _is_switch(module):
        make = layers["switch"]
    elif isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        make = layers["dora_embedding" if adapter.kind == "dora" else "embedding"]
    else:
        make = layers["dora" if adapter.kind == "dora" else "lora"]
    # Their constructors draw random numbers that nobody uses; the sampler's stream must not notice.
    key = random_key()
    layer = make.from_base(module, r=adapter.rank, scale=adapter.scale, dropout=0.0)
    mx.random.seed(key)
    for leaf, w in tensors.items():
        layer[leaf] = w
    layer.freeze()
    layer.eval()
    return layer


def random_key() -> int:
    """Return the state of MLX's random numbers as the seed that would set it."""
    state: Any = mx.random.state
    high, low = (int(word) for word in state[0].tolist())
    return (high << 32) | low


def adapter_layers() -> dict[str, Any]:
    """Return mlx-lm's adapter layers, without what its `tuner` package imports beside them (transformers, rich)."""
    lean.install("mlx_lm.tuner")
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    return {
        "lora": LoRALinear,
        "switch": LoRASwitchLinear,
        "embedding": LoRAEmbedding,
        "dora": DoRALinear,
        "dora_embedding": DoRAEmbedding,
    }


def can_adapt(module: nn.Module) -> bool:
    """Return whether a module is of a kind that adapters change: linear, embedding or experts, quantized or not."""
    return isinstance(module, nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding) or _is_switch(
        module
    )


def _is_switch(module: nn.Module) -> bool:
    return type(module).__name__ in ("SwitchLinear", "QuantizedSwitchLinear")


def parent_of(network: nn.Module, path: str) -> tuple[Any, Any]:
    """Return what holds the module at a dotted `path`, a module or a list, and under which key."""
    holder: Any = network
    keys: list[Any] = [int(part) if part.isdigit() else part for part in path.split(".")]
    for key in keys[:-1]:
        holder = holder[key]
    return holder, keys[-1]


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]
