"""Records the operations of a step as they are dispatched, with shapes, strides, types and the module they ran in.

On tensors without memory a step costs a tenth of a second and no memory. It times nothing; what an
operation costs is `analysis.cost`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vanbench.record.ops import Op, Operand
from vanbench.spec.cell import Cell
from vanbench.worker import precision

__all__ = ["Recorder", "in_modules", "trace_step"]

# Make memory and describe tensors, but move nothing.
_FREE = frozenset(
    """empty empty_like empty_strided empty_permuted new_empty new_empty_strided detach lift_fresh as_strided_ set_
    resize_ _local_scalar_dense is_same_size sym_size sym_stride sym_numel""".split()  # noqa: SIM905 -- reads better
)
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, appends an `Op` for each operation that moves or computes something to `ops`.

    phase: set it as the step goes on. keep: hold on to every tensor, so that no memory's number is given twice; only
    for tensors without memory.
    """

    def __init__(self, keep: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.phase = "forward"
        self.modules: list[str] = [""]
        self._keep: list[Any] | None = [] if keep else None
        self._numbers: dict[int, int] = {}
        self._readers: dict[int, list[tuple[str, str]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, then note what it read and wrote."""
        returned = self.call(func, args, kwargs or {})
        op = self._op(func, args, kwargs or {}, returned)
        if op is not None:
            self.ops.append(op)
            self.recorded(op)
        return returned

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the operation; a profiler takes the time here."""
        return func(*args, **kwargs)

    def recorded(self, op: Op) -> None:
        """Called after each operation that was recorded."""

    def _op(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], returned: Any) -> Op | None:
        name = str(func)
        short = name.split(".")[1] if name.startswith("aten.") else name
        if short in _FREE or name.startswith(("profiler.", "prim.")):
            return None
        given: dict[str, Any] = dict(zip((each.name for each in func._schema.arguments), args, strict=False))
        given.update(kwargs)
        inputs: dict[str, tuple[Operand, ...]] = {}
        arguments: dict[str, Any] = {}
        for word, value in given.items():
            tensors = _tensors(value)
            if tensors:
                inputs[word] = tuple(self._operand(each) for each in tensors)
            elif word == "self" or not isinstance(value, (Tensor, torch.Generator)):
                arguments[word] = _plain(value)
        outputs = tuple(self._operand(each) for each in _tensors(returned))
        written = {
            each.name
            for each in func._schema.arguments
            if each.alias_info is not None and each.alias_info.is_write and each.name in inputs
        }
        if written:
            if not outputs:  # _foreach_ operations in place return nothing
                outputs = tuple(operand for word in sorted(written) for operand in inputs[word])
        else:
            memory = {operand.storage for operands in inputs.values() for operand in operands}
            if outputs and all(operand.storage in memory for operand in outputs):
                return None  # a view
        return Op(
            name=name,
            phase=self.phase,
            module=self._module(short, inputs),
            inputs=inputs,
            outputs=outputs,
            arguments=arguments,
        )

    def _operand(self, tensor: Tensor) -> Operand:
        storage = tensor.untyped_storage()
        if self._keep is not None:
            self._keep.append(storage)
        place = storage._cdata
        return Operand(
            shape=tuple(tensor.shape),
            stride=tuple(tensor.stride()),
            dtype=str(tensor.dtype).removeprefix("torch."),
            storage=self._numbers.setdefault(place, len(self._numbers)),
        )

    def _module(self, short: str, inputs: Mapping[str, tuple[Operand, ...]]) -> str:
        """In forward the innermost module that runs; in backward the one whose forward read the same memory."""
        read = [operand.storage for operands in inputs.values() for operand in operands]
        if self.phase == "forward":
            for storage in read:
                self._readers.setdefault(storage, []).append((short, self.modules[-1]))
            return self.modules[-1]
        if self.phase != "backward":
            return ""
        seen = [reader for storage in read for reader in self._readers.get(storage, ())]
        alike = [module for forward, module in seen if forward.strip("_") in short]
        if alike:
            return alike[-1]
        if seen:
            return seen[-1][1]
        return self.ops[-1].module if self.ops and self.ops[-1].phase == "backward" else ""


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [each for each in value if isinstance(each, Tensor)]
    return []


def _plain(value: Any) -> Any:
    """An argument as JSON has it; types and layouts by name."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value)


@contextmanager
def in_modules(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """While entered, `recorder` knows which module of `model` runs forward."""
    handles = []
    for name, module in model.named_modules():

        def enter(_module: nn.Module, _inputs: Any, name: str = name) -> None:
            recorder.modules.append(name)

        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            recorder.modules.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        recorder.modules[:] = [""]


def trace_step(cell: Cell, model: nn.Module, device: torch.device) -> list[Op]:
    """The operations of one eager step of `cell`: forward, and in training loss, backward and optimizer.

    model: as the cell has it (precision, memory format, mode); it is left as it is. device: the one the cell runs on,
    which decides how the optimizer is written. A GradScaler's operations are left out.
    """
    recorder = Recorder(keep=True)
    where = torch.device("cuda", device.index or 0) if device.type == "cuda" else device
    # Tensors that pretend to be on the device: on the meta device, convolutions lose channels_last, which they keep in
    # truth, and autocast does nothing.
    with FakeTensorMode(allow_non_fake_inputs=True):
        subject = _pretended(model, where)
        images = torch.empty(
            (cell.batch_size, 3, cell.image_size, cell.image_size),
            dtype=precision.input_dtype(cell.precision),
            device=where,
        ).to(memory_format=_FORMATS[cell.memory_format])
        labels = torch.empty(cell.batch_size, dtype=torch.long, device=where)
        _run(cell, subject, images, labels, device, recorder)
    if cell.task == "train":
        _optimize(model, device, recorder)
    return recorder.ops


def _run(
    cell: Cell, model: nn.Module, images: Tensor, labels: Tensor, device: torch.device, recorder: Recorder
) -> None:
    if cell.task == "infer":
        with torch.no_grad(), precision.autocast(cell.precision, device.type):
            # Under autocast the first step casts the weights; a sample's later ones find them cast.
            model(images)
            with in_modules(model, recorder), recorder:
                model(images)
        return
    with recorder:
        with precision.autocast(cell.precision, device.type):
            with in_modules(model, recorder):
                logits = model(images)
            recorder.phase = "loss"
            loss = F.cross_entropy(logits, labels)
        recorder.phase = "backward"
        loss.backward()  # type: ignore[no-untyped-call]


def _optimize(model: nn.Module, device: torch.device, recorder: Recorder) -> None:
    """AdamW's second step (the first makes its state), on tensors without memory."""
    parameters = [nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.05, foreach=device.type == "cuda")
    optimizer.step()
    recorder.phase = "optimizer"
    with recorder:
        optimizer.step()


def _pretended(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of the model whose parameters and buffers only pretend: the same shapes and strides on `device`."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        other = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device=device)
        memo[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else other
    return copy.deepcopy(model, memo)
