"""A question as axes: what was asked by flags and TOML, checked word by word, and the cells that follow.

One code path: flags and file both become the same mapping of axis to values before anything is checked.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vanbench.errors import UserError, unknown
from vanbench.spec import names
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling

__all__ = ["AXES", "SAMPLING_KEYS", "Sweep", "parse_sweep", "read_toml", "sweep_to_toml"]

# Axis as typed -> field of Cell. Order matters: the leftmost varies slowest, so that cells to be compared are close.
AXES: dict[str, str] = {
    "task": "task",
    "image-size": "image_size",
    "batch-size": "batch_size",
    "models": "model",
    "precision": "precision",
    "memory-format": "memory_format",
    "compile": "compile",
    "form": "form",
    "depthwise": "depthwise",
    "allocator": "allocator",
    "threads": "threads",
}
_WORDS: dict[str, tuple[str, ...]] = {
    "task": names.TASKS,
    "precision": names.PRECISIONS,
    "memory-format": names.MEMORY_FORMATS,
    "compile": names.COMPILE,
    "form": names.FORMS,
    "depthwise": (*names.DEPTHWISE, names.AUTO),
    "allocator": names.ALLOCATORS,
}
_NUMBERS = {"batch-size": 65_536, "image-size": 4_096, "threads": 4_096}

# Key as typed -> field of Sampling.
SAMPLING_KEYS: dict[str, str] = {
    "target": "target",
    "budget": "budget_s",
    "timeout": "timeout_s",
    "seed": "seed",
    "warmup": "warmup_s",
    "warmup-steps": "warmup_steps",
    "settle": "settle_s",
    "sample": "sample_s",
    "round": "round_s",
}
_TOP = ("name", "question", "device", "reference", "axes", "sampling", "exclude")

# The answer a newcomer gets within minutes, by kind of device.
DEFAULTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "cpu": {"batch-size": (1, 8), "memory-format": names.MEMORY_FORMATS},
    "cuda": {"batch-size": (1, 32, 256), "precision": ("fp32", "bf16"), "memory-format": names.MEMORY_FORMATS},
}
DEFAULT_SAMPLING: dict[str, dict[str, float]] = {
    "cpu": {},
    "cuda": {"warmup_s": 1.5, "sample_s": 0.1, "settle_s": 0.03, "budget_s": 900.0},
}


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run. `axes` holds every axis that was given, each with its values in the order given.

    exclude: mappings of axis to value(s); a cell that agrees with every entry of one of them is not measured, and
    is a row that says so. reference: the model whose first cell of a contest is the divisor of `ratio`.
    """

    axes: dict[str, tuple[str | int, ...]]
    name: str = "run"
    question: str = ""
    device: str = "auto"
    reference: str | None = None
    exclude: tuple[dict[str, tuple[str | int, ...]], ...] = ()
    sampling: dict[str, float | int] = {}

    def resolved(self, kind: str) -> Sweep:
        """The sweep with the defaults of a device kind ("cpu", "cuda") in place of what was not given."""
        axes = {name: self.axes.get(name) or DEFAULTS[kind].get(name) for name in AXES}
        sampling = {**DEFAULT_SAMPLING[kind], **self.sampling}
        return msgspec.structs.replace(
            self, axes={name: values for name, values in axes.items() if values}, sampling=sampling
        )

    @property
    def plan(self) -> Sampling:
        """The sampling constants, defaults filled in."""
        return msgspec.convert(self.sampling, Sampling)

    def cells(self) -> tuple[Cell, ...]:
        """Every cell, in a deterministic order, each once; excluded ones are in it too (see `excluded`)."""
        given = [name for name in AXES if name in self.axes]
        product = itertools.product(*(self.axes[name] for name in given))
        named = ({AXES[n]: v for n, v in zip(given, values, strict=True)} for values in product)
        return tuple(dict.fromkeys(msgspec.convert({"device": self.device, **fields}, Cell) for fields in named))

    def excluded(self, cell: Cell) -> str | None:
        """The reason why the sweep leaves a cell out, or None."""
        for rule in self.exclude:
            if all(getattr(cell, AXES[name]) in values for name, values in rule.items()):
                words = ", ".join(f"{name} = {'|'.join(map(str, values))}" for name, values in rule.items())
                return f"excluded by the sweep: {words}"
        return None

    def reference_of(self, contest: tuple[str, int, int], without: Collection[Cell] = ()) -> Cell | None:
        """The cell that the others of a contest are divided by: the first one, or the reference model's first.

        without: cells that this device cannot measure, which are no reference.
        """
        cells = [cell for cell in self.cells() if cell.contest == contest and cell not in without]
        cells = [cell for cell in cells if not self.excluded(cell)]
        if self.reference is not None:
            cells = [cell for cell in cells if cell.model == self.reference]
        return cells[0] if cells else None


def read_toml(path: Path) -> dict[str, Any]:
    """The mapping in a TOML file; errors name the file and the line."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return document
    except FileNotFoundError:
        raise UserError(f"no such sweep file: {path}") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the sweep file {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def parse_sweep(document: Mapping[str, Any], flags: Mapping[str, Any], *, name: str = "run") -> Sweep:
    """A sweep from a TOML document overlaid by flags (keys as typed; None means not given).

    flags may hold any axis, any key of [sampling], and device, reference, rounds.
    """
    _only(document, _TOP, "key")
    table = document.get("axes", {})
    if not isinstance(table, Mapping):
        raise UserError("[axes] must be a table")
    _only(table, AXES, "axis")
    given = {**table, **{axis: flags[axis] for axis in AXES if flags.get(axis) is not None}}
    axes = {axis: _values(axis, raw) for axis, raw in given.items()}
    if "models" not in axes:
        raise UserError("no models: give --models van_b0,convnext_t, or a sweep file with models under [axes]")
    sampling = _sampling(document.get("sampling", {}), flags)
    exclude = document.get("exclude", [])
    if not isinstance(exclude, Sequence) or not all(isinstance(rule, Mapping) and rule for rule in exclude):
        raise UserError("[[exclude]] must be tables that each name at least one axis")
    rules = []
    for rule in exclude:
        _only(rule, AXES, "axis")
        rules.append({axis: _values(axis, raw) for axis, raw in rule.items()})
    device = str(flags.get("device") or document.get("device", "auto"))
    reference = flags.get("reference") or document.get("reference")
    if reference is not None:
        reference = names.canonical(str(reference))
        if reference not in axes["models"]:
            raise unknown("reference", reference, [str(model) for model in axes["models"]])
    return Sweep(
        axes=axes,
        name=str(document.get("name", name)),
        question=str(document.get("question", "")),
        device=_device(device),
        reference=reference,
        exclude=tuple(rules),
        sampling=sampling,
    )


def sweep_to_toml(sweep: Sweep) -> str:
    """The sweep as a TOML document that `parse_sweep` reads back to the same value."""
    import tomli_w

    document: dict[str, Any] = {"name": sweep.name, "question": sweep.question, "device": sweep.device}
    if sweep.reference is not None:
        document["reference"] = sweep.reference
    document["axes"] = {axis: list(values) for axis, values in sweep.axes.items()}
    fields = {field: key for key, field in SAMPLING_KEYS.items()}
    sampling: dict[str, Any] = {fields[f]: v for f, v in sweep.sampling.items() if f in fields}
    if "min_rounds" in sweep.sampling:
        sampling["rounds"] = f"{sweep.sampling['min_rounds']}:{sweep.sampling['max_rounds']}"
    if sampling:
        document["sampling"] = sampling
    if sweep.exclude:
        document["exclude"] = [{axis: list(values) for axis, values in rule.items()} for rule in sweep.exclude]
    return tomli_w.dumps(document)


def _only(table: Mapping[str, Any], allowed: Iterable[str], kind: str) -> None:
    for key in table:
        if key not in allowed:
            raise unknown(kind, str(key), allowed)


def _values(axis: str, raw: Any) -> tuple[str | int, ...]:
    """The values of one axis: a comma list, one value or a list; each checked, none twice."""
    if isinstance(raw, str):
        items: list[Any] = [item.strip() for item in raw.split(",")]
    elif isinstance(raw, (list, tuple)):
        items = list(raw)
    else:
        items = [raw]
    if not items or any(item == "" for item in items):
        raise UserError(f"{axis} has an empty value in {raw!r}")
    return tuple(dict.fromkeys(_value(axis, item) for item in items))


def _value(axis: str, item: Any) -> str | int:
    if axis in _NUMBERS:
        if axis == "threads" and item == "auto":
            return "auto"
        allowed = f"a whole number from 1 to {_NUMBERS[axis]}" + (", or auto" if axis == "threads" else "")
        try:
            number = int(str(item))
        except ValueError:
            raise UserError(f"{axis} {item!r} is not {allowed}") from None
        if isinstance(item, (bool, float)) or not 1 <= number <= _NUMBERS[axis]:
            raise UserError(f"{axis} {item!r} is not {allowed}")
        return number
    if not isinstance(item, str):
        raise UserError(f"{axis} {item!r} is not a word")
    if axis == "models":
        return names.canonical(item)
    if item not in _WORDS[axis]:
        raise unknown(axis, item, _WORDS[axis])
    return item


def _device(word: str) -> str:
    kind, _, index = word.partition(":")
    if kind not in names.DEVICES or (index and (kind != "cuda" or not index.isdigit())) or word.endswith(":"):
        raise unknown("device", word, [*names.DEVICES, "cuda:N"])
    return word


def _sampling(table: Any, flags: Mapping[str, Any]) -> dict[str, float | int]:
    """Fields of Sampling that were given, checked: all positive, rounds as MIN:MAX."""
    if not isinstance(table, Mapping):
        raise UserError("[sampling] must be a table")
    _only(table, [*SAMPLING_KEYS, "rounds"], "sampling key")
    keys = [*SAMPLING_KEYS, "rounds"]
    given = {**table, **{key: flags[key] for key in keys if flags.get(key) is not None}}
    fields: dict[str, float | int] = {}
    for key, raw in given.items():
        if key == "rounds":
            fields["min_rounds"], fields["max_rounds"] = _rounds(raw)
            continue
        whole = key in ("seed", "warmup-steps")
        lowest = 0 if key in ("seed", "settle", "warmup") else None
        try:
            number = int(str(raw)) if whole else float(raw)
        except (TypeError, ValueError):
            raise UserError(f"{key} {raw!r} is not a number") from None
        if isinstance(raw, bool) or not (number > 0 or number == lowest) or number == float("inf"):
            raise UserError(f"{key} {raw!r} is not a {'whole ' if whole else ''}number above {lowest or 0}")
        if key == "target" and number >= 1:
            raise UserError(f"target {raw!r} is a relative half-width: above 0 and below 1, for instance 0.02")
        fields[SAMPLING_KEYS[key]] = number
    return fields


def _rounds(raw: Any) -> tuple[int, int]:
    low, _, high = str(raw).partition(":")
    try:
        least, most = int(low), int(high or low)
    except ValueError:
        raise UserError(f"rounds {raw!r} is not MIN:MAX, for instance 5:15") from None
    if not 1 <= least <= most:
        raise UserError(f"rounds {raw!r} must be MIN:MAX with 1 <= MIN <= MAX, for instance 5:15")
    return least, most
