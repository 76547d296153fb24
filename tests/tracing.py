"""Operations for tests: written down by hand, or traced from a model's step without memory. It asserts nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import vanbench.models  # noqa: F401  (registers VAN with timm)
from vanbench.record.ops import Op, Operand

__all__ = ["MODELS", "Tracer", "dense", "model_of", "op_of", "traced"]

MODELS = ("van_b0", "convnext_tiny", "resnet50")


def dense(shape: tuple[int, ...], storage: int, dtype: str = "float32") -> Operand:
    """A tensor without gaps, in the order of its dimensions."""
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return Operand(shape=shape, stride=stride, dtype=dtype, storage=storage)


def op_of(name: str, outputs: tuple[Operand, ...], /, *, phase: str = "forward", **inputs: Operand) -> Op:
    """An operation of one tensor for each argument."""
    return Op(name=name, phase=phase, inputs={key: (each,) for key, each in inputs.items()}, outputs=outputs)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every ATen call that moves or computes something, as an Op. The measured side has a tracer of its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.phase = "forward"
        self._numbers: dict[int, int] = {}
        self._kept: list[Tensor] = []  # memory that lives has a number of its own

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        self.phase = phase
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        returned = func(*args, **kwargs)
        if func.namespace != "aten":
            return returned
        inputs: dict[str, tuple[Operand, ...]] = {}
        arguments: dict[str, Any] = {}
        written: list[Operand] = []
        given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            value = given.get(argument.name, argument.default_value)
            tensors = self._operands(value)
            if not tensors:
                arguments[argument.name] = value
                continue
            inputs[argument.name] = tensors
            if argument.alias_info is not None and argument.alias_info.is_write:
                written += tensors
        known = {operand.storage for operands in inputs.values() for operand in operands}
        results = self._operands(returned)
        is_view = not written and bool(results) and all(each.storage in known for each in results)
        if is_view or "empty" in str(func) or "as_strided_" in str(func):
            return returned
        new = tuple(each for each in results if each.storage not in {other.storage for other in written})
        self.ops.append(
            Op(name=str(func), phase=self.phase, inputs=inputs, outputs=(*new, *written), arguments=arguments)
        )
        return returned

    def _operands(self, value: Any) -> tuple[Operand, ...]:
        return tuple(self._operand(each) for each in tree_flatten(value)[0] if isinstance(each, Tensor))

    def _operand(self, tensor: Tensor) -> Operand:
        self._kept.append(tensor)
        number = self._numbers.setdefault(tensor.untyped_storage()._cdata, len(self._numbers))
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Operand(shape=tuple(tensor.shape), stride=tuple(tensor.stride()), dtype=dtype, storage=number)


def model_of(name: str) -> nn.Module:
    """A model of timm without memory."""
    with torch.device("meta"):
        made: nn.Module = timm.create_model(name, drop_path_rate=0.1)
    return made


@cache
def traced(
    name: str, batch: int, task: str, *, foreach: bool = False, autocast: bool = False, first: bool = False
) -> tuple[Op, ...]:
    """One step. first: the optimizer's first one, which makes its state."""
    if not autocast:
        return _traced(model_of(name), batch, task, "meta", foreach=foreach, first=first)
    model = model_of(name)  # initialising reads values
    with FakeTensorMode(allow_non_fake_inputs=True):  # also without memory, but of a device that autocast knows
        return _traced(model.to_empty(device="cpu"), batch, task, "cpu", foreach=foreach, first=first)


def _traced(model: nn.Module, batch: int, task: str, device: str, *, foreach: bool, first: bool) -> tuple[Op, ...]:
    x, target = torch.empty(batch, 3, 224, 224, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    tracer = Tracer()
    cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=device == "cpu")
    if task == "infer":
        model.eval()
        with torch.no_grad(), cast, tracer.during("forward"):
            model(x)
        return tuple(tracer.ops)
    # The others read their step count's value, which a fake tensor has not.
    how = {"fused": True} if device == "cpu" else {"foreach": foreach}
    optimizer = torch.optim.AdamW(model.parameters(), **how)  # type: ignore[arg-type]
    if not first:
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with cast:
        with tracer.during("forward"):
            logits = model(x)
        with tracer.during("loss"):
            loss = F.cross_entropy(logits.float(), target)
    with tracer.during("backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    with tracer.during("optimizer"):
        optimizer.step()
    return tuple(tracer.ops)
