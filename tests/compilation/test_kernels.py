"""Kinds, FLOPs and dtypes of operations, in the words of XLA's GPU compiler (jax 0.11.2, an H100), cut short."""

# The compiler writes an instruction per line.
# ruff: noqa: E501
import dataclasses

import numpy as np
import pytest
from jax.sharding import Mesh

from seq2seq_jax.compilation.cost import cost_of
from seq2seq_jax.compilation.hlo import Program, collectives
from seq2seq_jax.compilation.kernels import dot_flops, kind_of, product_dtype, products_of
from seq2seq_jax.parallel.chips import CHIPS

CHIP = dataclasses.replace(
    CHIPS["h100"], flops=1000.0, memory_bandwidth=100.0, interconnect_bandwidth=10.0, network_bandwidth=1.0
)

PROGRAM = """\
HloModule jit_update, is_scheduled=true

%gemm_fusion_dot.1_computation (parameter_0: bf16[8,4], parameter_1: f32[4,16]) -> bf16[8,16] {
  %parameter_0 = bf16[8,4]{1,0} parameter(0)
  %parameter_1 = f32[4,16]{1,0} parameter(1)
  %kernel = bf16[4,16]{1,0} fusion(%parameter_1), kind=kLoop, calls=%nested
  ROOT %dot.1 = bf16[8,16]{1,0} dot(%parameter_0, %kernel), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%nested (p: f32[4,16]) -> bf16[4,16] {
  %p = f32[4,16]{1,0} parameter(0)
  ROOT %convert.1 = bf16[4,16]{1,0} convert(%p)
}

%fused_dynamic_slice.clone (q: f32[6,4], i: s32[]) -> f32[1,4] {
  %q = f32[6,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,4]{1,0} dynamic-slice(%q, %i, %zero), dynamic_slice_sizes={1,4}
}

%fused_dynamic_update_slice.clone (r: f32[6,4], u: f32[1,4], j: s32[]) -> f32[6,4] {
  %r = f32[6,4]{1,0} parameter(0)
  %u = f32[1,4]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %updated = f32[6,4]{1,0} dynamic-update-slice(%r, %u, %j, %zero.1)
}

%fused_add (s: bf16[8,16]) -> bf16[8,16] {
  %s = bf16[8,16]{1,0} parameter(0)
  ROOT %sum = bf16[8,16]{1,0} add(%s, %s)
}

%fused_transpose (t: bf16[8,16]) -> bf16[16,8] {
  %t = bf16[8,16]{1,0} parameter(0)
  ROOT %transpose = bf16[16,8]{1,0} transpose(%t), dimensions={1,0}
}

ENTRY %main (x: bf16[8,4], w: f32[4,16], m: f32[6,4], at: s32[], g: f32[8,4], q.1: bf16[2,6,3,8], k.1: bf16[2,5,3,8]) -> bf16[8,16] {
  %x = bf16[8,4]{1,0} parameter(0)
  %w = f32[4,16]{1,0:S(1)} parameter(1)
  %m = f32[6,4]{1,0} parameter(2)
  %at = s32[] parameter(3)
  %g = f32[8,4]{1,0} parameter(4)
  %q.1 = bf16[2,6,3,8]{3,2,1,0} parameter(5)
  %k.1 = bf16[2,5,3,8]{3,2,1,0} parameter(6)
  %gemm_fusion_dot.1 = bf16[8,16]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm_fusion_dot.1_computation, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %cublas = (f32[4,4]{1,0}, s8[4096]{0}) custom-call(%g, %g), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
  %fmha = (bf16[2,3,6,8]{3,1,2,0}, u8[0]{0}) custom-call(%q.1, %k.1, %k.1), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"mask_type":"NO_MASK"}}
  %fmha.1 = (bf16[2,3,6,8]{3,1,2,0}, f32[2,3,6]{2,1,0}, u8[0]{0}) custom-call(%q.1, %q.1, %q.1), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"mask_type":"CAUSAL"}}
  %fmha.2 = (bf16[2,3,6,8]{3,1,2,0}, bf16[2,3,5,8]{3,1,2,0}, bf16[2,3,5,8]{3,1,2,0}, u8[0]{0}) custom-call(%q.1, %k.1, %k.1, %q.1), custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward", backend_config={"cudnn_fmha_backend_config":{"mask_type":"PADDING"}}
  %fusion-start.1 = ((f32[6,4]{1,0}, s32[]), f32[1,4]{1,0}, u32[]) fusion-start(%m, %at), kind=kLoop, calls=%fused_dynamic_slice.clone
  %fusion-done.1 = f32[1,4]{1,0} fusion-done(%fusion-start.1)
  %fusion-start.2 = ((f32[6,4]{1,0}, f32[1,4]{1,0}, s32[]), f32[6,4]{1,0}, u32[]) fusion-start(%m, %fusion-done.1, %at), kind=kLoop, calls=%fused_dynamic_update_slice.clone
  %fusion-done.2 = f32[6,4]{1,0} fusion-done(%fusion-start.2)
  %all-gather-start = (bf16[8,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%gemm_fusion_dot.1), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}, use_global_device_ids=true, backend_config={"collective_backend_config":{"is_sync":false}}
  %transposed = bf16[16,8]{1,0} fusion(%gemm_fusion_dot.1), kind=kInput, calls=%fused_transpose
  %all-gather-done = bf16[32,16]{1,0} all-gather-done(%all-gather-start)
  %reduce-scatter-start = ((f32[4,4]{1,0}), f32[1,4]{1,0}) reduce-scatter-start(%cublas.1), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}, use_global_device_ids=true, to_apply=%add, backend_config={"collective_backend_config":{"is_sync":true}}
  %reduce-scatter-done = f32[1,4]{1,0} reduce-scatter-done(%reduce-scatter-start)
  %cublas.1 = f32[4,4]{1,0} get-tuple-element(%cublas), index=0
  %copy.1 = f32[8,4]{0,1} copy(%g)
  ROOT %out = bf16[8,16]{1,0} fusion(%gemm_fusion_dot.1), kind=kLoop, calls=%fused_add
}
"""

ATTENTION = 2.0 * 2 * 3 * 6 * 5 * 8  # FLOPs of one product of fmha.
CAUSAL = 2.0 * 2 * 3 * (1 + 2 + 3 + 4 + 5 + 6) * 8

EXPECTED = {
    "gemm_fusion_dot.1": ("products, Triton", 2 * 8 * 4 * 16),
    "cublas": ("products, library", 2 * 4 * 8 * 4),
    "fmha": ("attention, forward", 2 * ATTENTION),
    "fmha.1": ("attention, forward", 2 * CAUSAL),
    "fmha.2": ("attention, backward", 5 * ATTENTION),
    "fusion-start.1": ("copies", 0),
    "fusion-start.2": ("copies", 0),
    "fusion-done.1": (None, 0),
    "all-gather-start": (None, 0),
    "reduce-scatter-done": (None, 0),
    "transposed": ("copies", 0),
    "copy.1": ("copies", 0),
    "out": ("fusions", 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_an_operation_is_and_computes(name):
    program = Program(PROGRAM)
    main = program.computations["main"]
    instruction = main.instructions[name]
    kind, flops = EXPECTED[name]
    assert kind_of(program, instruction, main) == kind
    assert sum(products_of(program, instruction, main)) == flops


def test_convolutions_of_a_library_are_those_of_the_compiler():
    """The three of a layer [rows, positions, channels] with a kernel of 3: as many products each."""
    text = """\
HloModule convolutions

ENTRY %main (x: bf16[2,10,4], w: bf16[3,4,6], dy: bf16[2,8,6]) -> bf16[2,8,6] {
  %x = bf16[2,10,4]{2,1,0} parameter(0)
  %w = bf16[3,4,6]{2,1,0} parameter(1)
  %dy = bf16[2,8,6]{2,1,0} parameter(2)
  %dx = (bf16[2,10,4]{2,1,0}, u8[0]{0}) custom-call(%dy, %w), window={size=3}, dim_labels=b0f_0io->b0f, custom_call_target="__cudnn$convBackwardInput"
  %dw = (bf16[3,4,6]{2,1,0}, u8[0]{0}) custom-call(%x, %dy), window={size=3}, dim_labels=b0f_0io->b0f, custom_call_target="__cudnn$convBackwardFilter"
  %y = (bf16[2,8,6]{2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3}, dim_labels=b0f_0io->b0f, custom_call_target="__cudnn$convForward"
  ROOT %plain = bf16[2,8,6]{2,1,0} convolution(%x, %w), window={size=3}, dim_labels=b0f_0io->b0f
}
"""
    main = Program(text).computations["main"]
    found = {name: dot_flops(main.instructions[name], main) for name in ("y", "dx", "dw", "plain")}
    assert set(found.values()) == {2.0 * 2 * 8 * 3 * 4 * 6}, found


def test_the_dtype_of_a_product_is_that_of_its_operands():
    program = Program(PROGRAM)
    fused, main = (program.computations[name] for name in ("gemm_fusion_dot.1_computation", "main"))
    assert product_dtype(fused.instructions["dot.1"], fused) == "bf16"
    assert product_dtype(main.instructions["cublas"], main) == "f32"
    text = PROGRAM.replace("lhs_contracting_dims={1}", "algorithm=dot_bf16_bf16_f32, lhs_contracting_dims={1}")
    fused = Program(text.replace("dot(%parameter_0", "dot(%parameter_1")).computations[fused.name]
    assert product_dtype(fused.instructions["dot.1"], fused) == "f32 x bf16 by dot_bf16_bf16_f32"


def test_the_cost_of_a_program_of_a_gpu():
    mesh = Mesh(np.array([Device(number) for number in range(4)]).reshape(1, 4, 1), ("data", "fsdp", "tensor"))
    cost = cost_of(PROGRAM, mesh=mesh, chip=CHIP, torus_dims=0, unbounded_trips=1)
    kernels = {each.kind: each for each in cost.kernels}
    assert {kind: each.count for kind, each in kernels.items()} == {
        "products, Triton": 1,
        "products, library": 1,
        "attention, forward": 2,
        "attention, backward": 1,
        "copies": 4,
        "fusions": 1,
    }
    products = {each.dtype: (each.count, each.flops) for each in cost.products}
    attention = 7 * ATTENTION + 2 * CAUSAL
    assert products == {"bf16": (4, 1024 + attention), "f32": (1, 256)}
    assert cost.flops == 1024 + 256 + attention
    # In main memory although the layout says S(1): x and the result in bfloat16, w in float32.
    assert kernels["products, Triton"].bytes == 2 * 8 * 4 + 4 * 4 * 16 + 2 * 8 * 16
    # Scratch memory does not count.
    assert kernels["products, library"].bytes == 4 * (2 * 8 * 4 + 4 * 4)
    # A slice and the update of one, each read, written and with its index; a transpose; a copy.
    assert kernels["copies"].bytes == 2 * (16 + 4 + 16) + 2 * (2 * 8 * 16) + 2 * (4 * 8 * 4)
    exchanges = {each.kind: (each.axes, each.bytes, each.overlapped) for each in cost.exchanges}
    assert exchanges == {
        "all-gather": ("fsdp", 0.75 * 2 * 32 * 16, 1.0),
        "reduce-scatter": ("fsdp", 0.75 * 4 * 4 * 4, 0.0),
    }


def test_a_collective_that_is_synchronous_does_not_overlap():
    assert [each.overlapped for each in collectives(Program(PROGRAM), 4)] == [True, False]


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a mesh, as far as costs ask."""

    id: int
