"""Kinds of operations of a compiled program, and the FLOPs and dtypes of its matrix products.

XLA's GPU compiler writes a matrix product as a Triton fusion, a call of cuBLAS, or a fusion or call of cuDNN; attention
as a call of cuDNN.
"""

import math
import re
from collections.abc import Iterator

import numpy as np

from seq2seq_jax.compilation.hlo import ALIASES, COLLECTIVES, ArrayShape, Computation, Instruction, Program

CONTROL = ("while", "conditional", "call", "after-all", "async", "async-update", "optimization-barrier")
"""Operations that are those inside them."""

MOVEMENT = (
    "copy", "transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad", "reverse",
    "broadcast",
)  # fmt: skip
"""Operations that move or repeat values and compute none."""

GEMM, CONVOLUTION, ATTENTION = "__cublas$", "__cudnn$conv", "__cudnn$fmha"
"""What the names of library functions begin with."""


def kind_of(program: Program, instruction: Instruction, computation: Computation) -> str | None:
    """What a device executes an operation as; None for what is no operation of its own, and for collectives.

    "products, library", "products, Triton" and "products" (by the compiler's own code) are operations with a matrix
    product; "attention, forward" and "attention, backward" are fused; "copies" move values and compute none; other
    operations are "fusions", "calls" (of libraries), or "others".
    """
    opcode = instruction.opcode
    operation = instruction.operation
    if opcode in ALIASES or operation in CONTROL or operation in COLLECTIVES or opcode.endswith("-done"):
        return None
    if operation == "custom-call":
        if instruction.target.startswith(ATTENTION):
            return "attention, backward" if "Backward" in instruction.target else "attention, forward"
        return "products, library" if instruction.target.startswith((GEMM, CONVOLUTION)) else "calls"
    if any(products_of(program, instruction, computation)):
        code = re.search(r'"kind":"([^"]*)"', instruction.attributes)
        code = "" if code is None else code[1]
        return "products, Triton" if "triton" in code else "products, library" if "__cudnn" in code else "products"
    if operation == "fusion":
        inside = {each.opcode for each, _ in _inside(program, program.computations[instruction.called[0]])}
        moves = inside <= {*MOVEMENT, *ALIASES, "fusion"} and inside & set(MOVEMENT)
        return "copies" if moves and inside != {"broadcast", *(inside & {*ALIASES, "fusion"})} else "fusions"
    return "copies" if operation in MOVEMENT else "others"


def products_of(program: Program, instruction: Instruction, computation: Computation) -> list[float]:
    """FLOPs of a matrix product, or of each matrix product in a fusion."""
    inside = [(instruction, computation)]
    if instruction.operation == "fusion":
        inside = _inside(program, program.computations[instruction.called[0]])
    return [flops for each, computation in inside if (flops := dot_flops(each, computation))]


def _inside(program: Program, computation: Computation) -> Iterator[tuple[Instruction, Computation]]:
    """The instructions of a fused computation, and of the fusions in it."""
    for instruction in computation.instructions.values():
        yield instruction, computation
        if instruction.opcode == "fusion":
            yield from _inside(program, program.computations[instruction.called[0]])


def product_dtype(instruction: Instruction, computation: Computation) -> str:
    """The dtype of the operands of a matrix product, both if they differ; and the compiler's algorithm, if it names
    one.
    """
    dtypes = dict.fromkeys(computation.instructions[name].arrays[0].dtype for name in instruction.operands[:2])
    algorithm = instruction.attribute("algorithm")
    return " x ".join(dtypes) + (f" by {algorithm}" if algorithm else "")


def dot_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a matrix product, convolution or fused attention, by the shapes; 0 for other instructions."""
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)[1]
        return _dot_flops(instruction, computation, [int(dim) for dim in contracted.split(",") if dim])
    if instruction.opcode == "convolution":
        left, right = _operand_arrays(instruction, computation)
        return _convolution_flops(instruction, left, right, instruction.arrays[0])
    target = instruction.target if instruction.operation == "custom-call" else ""
    if target.startswith(GEMM):
        contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
        return _dot_flops(instruction, computation, [int(dim) for dim in re.findall(r"\d+", contracted[1])])
    if target.startswith(CONVOLUTION):
        left, right = _operand_arrays(instruction, computation)
        result = instruction.arrays[0]
        if "BackwardInput" in target:
            left, result = result, left
        elif "BackwardFilter" in target:
            right, result = result, right
        return _convolution_flops(instruction, left, right, result)
    if target.startswith(ATTENTION):
        return _attention_flops(instruction, computation)
    return 0.0


def _operand_arrays(instruction: Instruction, computation: Computation) -> list[ArrayShape]:
    return [computation.instructions[name].arrays[0] for name in instruction.operands[:2]]


def _dot_flops(instruction: Instruction, computation: Computation, contracted: list[int]) -> float:
    left, _ = _operand_arrays(instruction, computation)
    return 2.0 * math.prod(instruction.arrays[0].dims) * math.prod(left.dims[dim] for dim in contracted)


def _attention_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of two products in the forward pass and five in the backward pass, which computes the scores again.

    Half of a causal one, whose kernel leaves out the blocks above the diagonal.
    """
    queries, keys = (array.dims for array in _operand_arrays(instruction, computation))
    batch, target, heads, head_dim = queries
    products = 5.0 if "Backward" in instruction.target else 2.0
    pairs = target * (target + 1) // 2 if "CAUSAL" in instruction.attributes else target * keys[1]
    return products * 2.0 * batch * heads * pairs * head_dim


def _convolution_flops(instruction: Instruction, left: ArrayShape, right: ArrayShape, result: ArrayShape) -> float:
    """FLOPs of a convolution, without products with padding or the gaps of dilation.

    A TPU computes batched matrix products as convolutions over windows that are mostly gaps.
    """
    left, right, result = left.dims, right.dims, result.dims
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    left_labels, right_labels, result_labels = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    spatial = [label for label in result_labels if label.isdigit()]

    def of_dims(name, default):
        return fields[name].split("x") if name in fields else [default] * len(spatial)

    positions = 1
    options = zip(
        spatial,
        of_dims("stride", "1"),
        of_dims("pad", "0_0"),
        of_dims("lhs_dilate", "1"),
        of_dims("rhs_dilate", "1"),
        strict=True,
    )
    for label, stride, pad, left_dilation, right_dilation in options:
        size = left[left_labels.index(label)]
        kernel = right[right_labels.index(label)]
        steps = np.arange(result[result_labels.index(label)])[:, None] * int(stride)
        index = steps + np.arange(kernel)[None] * int(right_dilation) - int(pad.split("_")[0])
        exists = (index >= 0) & (index % int(left_dilation) == 0) & (index // int(left_dilation) < size)
        positions *= int(exists.sum())
    batch = result[result_labels.index("b")]
    columns = result[result_labels.index("f")]
    inner = right[right_labels.index("i")]
    batch_groups = int(instruction.attribute("batch_group_count") or 1)
    return 2.0 * batch * columns * inner * positions / batch_groups
