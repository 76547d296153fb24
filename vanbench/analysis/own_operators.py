"""Our own operators as what they compute, under ATen's names, so that one set of formulas prices both. Pure."""

from __future__ import annotations

import msgspec

from vanbench.record.ops import Op

__all__ = ["as_aten"]


def as_aten(op: Op) -> Op:
    """A `vanbench.depthwise_*` operation as the ATen convolution it stands for; any other as it is.

    Their arguments are called as ATen's, so that only the name and what an argument's absence means are missing.
    """
    namespace, _, rest = op.name.partition(".")
    name = rest.partition(".")[0]
    if namespace != "vanbench" or not name.startswith("depthwise_"):
        return op
    if name.endswith("_grad_input"):
        # The map whose gradient this is has the same shape; it is not read.
        inputs = {**op.inputs, "input": op.outputs}
        return _backward(op, inputs, [True, False, False])
    if name.endswith("_grad_weight"):
        return _backward(op, op.inputs, [False, True, False])
    return msgspec.structs.replace(op, name="aten.convolution.default")


def _backward(op: Op, inputs: object, mask: list[bool]) -> Op:
    arguments = {**op.arguments, "output_mask": mask}
    return msgspec.structs.replace(op, name="aten.convolution_backward.default", inputs=inputs, arguments=arguments)
