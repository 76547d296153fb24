"""Our own operators as what they compute, under ATen's names, so that one set of formulas prices both. Pure."""

from __future__ import annotations

import msgspec

from vanbench.record.ops import Op

__all__ = ["as_aten", "parts_of"]


def as_aten(op: Op) -> Op:
    """A `vanbench.depthwise_*` operation as the ATen convolution it stands for; any other as it is.

    Their arguments are called as ATen's, so that only the name and what an argument's absence means are missing.
    """
    namespace, _, rest = op.name.partition(".")
    name = rest.partition(".")[0]
    if namespace != "vanbench" or not name.startswith("depthwise_") or name.endswith("_pair"):
        return op
    if name.endswith("_grad_input"):
        # The map whose gradient this is has the same shape; it is not read.
        inputs = {**op.inputs, "input": op.outputs}
        return _backward(op, inputs, [True, False, False])
    if name.endswith("_grad_weight"):
        return _backward(op, op.inputs, [False, True, False])
    return msgspec.structs.replace(op, name="aten.convolution.default")


def parts_of(op: Op) -> tuple[Op, ...]:
    """The ATen convolutions that one of our operators does in a row; none for any other.

    What lies between them is not moved: their operations count, their bytes do not.
    """
    if not op.name.startswith("vanbench.depthwise_cuda_pair."):
        return ()
    given, channels = op.inputs, op.outputs[0].shape[1]
    first = {"input": given["input"], "weight": given["weight"], "bias": given.get("bias", ())}
    second = {"input": op.outputs, "weight": given["weight2"], "bias": given.get("bias2", ())}
    return tuple(
        msgspec.structs.replace(
            op,
            name="aten.convolution.default",
            inputs={name: operands for name, operands in inputs.items() if operands},
            arguments={"padding": padding, "dilation": dilation, "groups": channels},
        )
        for inputs, padding, dilation in ((first, 2, 1), (second, 9, 3))
    )


def _backward(op: Op, inputs: object, mask: list[bool]) -> Op:
    arguments = {**op.arguments, "output_mask": mask}
    return msgspec.structs.replace(op, name="aten.convolution_backward.default", inputs=inputs, arguments=arguments)
