"""The reader of compiled programs, on texts written by hand and on what the CPU's compiler writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.compilation.hlo import ArrayShape, Program, collectives, device_groups
from seq2seq_jax.compilation.kernels import dot_flops

LOOP = """\
HloModule loop

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {{
  %state = (s32[], f32[8,16]{{1,0}}) parameter(0)
  %index = s32[] get-tuple-element(%state), index=0
  %step = s32[] constant({step})
  %next = s32[] add(%index, %step)
  %values = f32[8,16]{{1,0}} get-tuple-element(%state), index=1
  %weights = f32[16,16]{{1,0}} constant({{...}})
  %product = f32[8,16]{{1,0}} dot(%values, %weights), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %out = (s32[], /*index=1*/f32[8,16]{{1,0}}) tuple(%next, %product)
}}

%condition (state.1: (s32[], f32[8,16])) -> pred[] {{
  %state.1 = (s32[], f32[8,16]{{1,0}}) parameter(0)
  %index.1 = s32[] get-tuple-element(%state.1), index=0
  %bound = s32[] constant(12)
  %going = pred[] compare(%index.1, %bound), direction=LT
  {root}
}}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {{
  %x = f32[8,16]{{1,0}} parameter(0)
  %start = s32[] constant({start})
  %first = (s32[], f32[8,16]{{1,0}}) tuple(%start, %x)
  %loop = (s32[], f32[8,16]{{1,0}}) while(%first), condition=%condition, body=%body{attributes}
  ROOT %result = f32[8,16]{{1,0}} get-tuple-element(%loop), index=1
}}
"""


def loop(*, start=0, step=1, root=None, attributes=""):
    text = LOOP.format(start=start, step=step, root=root or "", attributes=attributes)
    return text if root else text.replace("  %going =", "  ROOT %going =")


def flops(text):
    return sum(run.trips * dot_flops(run.instruction, run.computation) for run in Program(text).runs())


@pytest.mark.parametrize(("start", "step", "trips"), [(0, 1, 12), (0, 2, 6), (3, 1, 9), (2, 4, 3), (12, 1, 0)])
def test_a_loop_is_counted_by_its_bound_its_start_and_its_step(start, step, trips):
    assert flops(loop(start=start, step=step)) == trips * 2 * 8 * 16 * 16


def test_the_compilers_own_count_comes_first():
    attributes = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert flops(loop(attributes=attributes)) == 5 * 2 * 8 * 16 * 16


def test_a_loop_that_may_end_sooner_is_counted_to_its_bound_and_named():
    further = "%more = pred[] custom-call(%state.1)\n  ROOT %both = pred[] and(%going, %more)"
    program = Program(loop(root=further))
    assert [run.trips for run in program.runs() if run.instruction.opcode == "dot"] == [12]
    assert program.open_loops == {"loop": 12}
    assert Program(loop()).open_loops == {}


def test_a_loop_without_a_bound_is_counted_as_often_as_is_said():
    program = Program(loop(root="ROOT %more = pred[] custom-call(%state.1)"), unbounded_trips=50)
    assert [run.trips for run in program.runs() if run.instruction.opcode == "dot"] == [50]
    assert program.open_loops == {"loop": 50}


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, dimensions={0}", [[0, 2], [1, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8], use_global_device_ids=true", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1), x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}, x", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, x", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("source_target_pairs={{0,1},{1,2},{2,0}}, channel_id=3", [[0, 1], [1, 2], [2, 0]]),
    ],
)
def test_groups_of_devices(attributes, groups):
    np.testing.assert_array_equal(device_groups(attributes, 8), groups)


def test_groups_in_a_form_that_is_not_known_are_an_error():
    with pytest.raises(ValueError, match="unknown notation of the devices of a collective: replica_groups=V9"):
        device_groups("replica_groups=V9", 8)


EXCHANGES = """\
HloModule exchanges

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%starts (p: f32[4,8]) -> f32[16,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %all-gather.1 = f32[16,8]{1,0} all-gather(%p), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %started = f32[16,8]{1,0} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion (q: f32[4,8]) -> f32[16,8] {
  %q = f32[4,8]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[16,8]{1,0} all-gather(%q), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
}

%all-reduce-scatter (r: f32[16,8]) -> f32[4,8] {
  %r = f32[16,8]{1,0} parameter(0)
  %all-reduce.1 = f32[16,8]{1,0} all-reduce(%r), channel_id=6, replica_groups=[2,4]<=[8], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[4,8]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={4,8}
}

ENTRY %main (x: f32[4,8], y: f32[16,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %y = f32[16,8]{1,0} parameter(1)
  %first = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%starts
  %second = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion
  %start = (f32[16,8]{1,0}, f32[16,8]{1,0}) all-reduce-start(%y), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%add
  %done = f32[16,8]{1,0} all-reduce-done(%start)
  %alone = f32[16,8]{1,0} all-reduce(%y), channel_id=2, replica_groups=[8,1]<=[8], to_apply=%add
  %moved = f32[4,8]{1,0} collective-permute(%x), channel_id=3, source_target_pairs={{0,1},{1,0}}
  ROOT %scattered = f32[4,8]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_collectives_are_counted_once_with_what_each_device_sends():
    found = {each.kind: each for each in collectives(Program(EXCHANGES), 8)}
    assert len(found) == len(collectives(Program(EXCHANGES), 8)) == 4
    whole = 16 * 8 * 4
    assert found["all-gather"].bytes_sent == whole * 3 / 4
    assert found["reduce-scatter"].bytes_sent == whole * 3 / 4
    assert found["all-reduce"].bytes_sent == 2 * whole / 2
    assert found["collective-permute"].bytes_sent == whole / 4
    assert {kind for kind, each in found.items() if each.overlapped} == {"all-gather", "all-reduce"}


def test_tiles_pad_and_other_memories_take_no_room():
    assert ArrayShape("bf16", (3, 5), "").bytes == 30
    assert ArrayShape("f32", (), "").bytes == 4
    assert ArrayShape("pred", (7,), "").bytes == 7
    assert ArrayShape("f32", (5, 3), "1,0:T(8,128)").bytes_in_memory == 8 * 128 * 4
    assert ArrayShape("f32", (200, 3), "0,1:T(8,128)").bytes_in_memory == 256 * 8 * 4
    assert ArrayShape("f32", (5, 3), "1,0:T(8,128)S(1)").bytes_in_memory == 0


CONVOLUTION = """\
HloModule convolution

ENTRY %main (x: f32[{left}], w: f32[{right}]) -> f32[{result}] {{
  %x = f32[{left}] parameter(0)
  %w = f32[{right}] parameter(1)
  ROOT %y = f32[{result}] convolution(%x, %w), {attributes}
}}
"""


@pytest.mark.parametrize(
    ("left", "right", "result", "attributes", "expected"),
    [
        # A plain matrix product [6, 5] x [5, 7].
        ("6,5", "5,7", "6,7", "dim_labels=bf_io->bf", 2 * 6 * 5 * 7),
        # A product [2, 3 b, 4 f] x [2, 4 i, 5 o] batched over 2: only every second place of the gaps is a number.
        (
            "2,3,4", "2,4,5", "2,3,5",
            "window={size=2 stride=1 lhs_dilate=2}, dim_labels=0bf_0io->0bf", 2 * 2 * 3 * 4 * 5,
        ),
        # Three taps over five places, padded by one: 2 + 3 + 3 + 3 + 2 products each.
        ("1,5,4", "3,4,6", "1,5,6", "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f", 2 * 13 * 4 * 6),
    ],
)  # fmt: skip
def test_a_convolution_counts_products_with_numbers_that_are_there(left, right, result, attributes, expected):
    text = CONVOLUTION.format(left=left, right=right, result=result, attributes=attributes)
    assert flops(text) == expected


def test_what_the_cpus_compiler_writes_is_read():
    """A product of [8, 16] and [16, 16] ten times, then a loop that ends when a number is large, at most 30 times."""

    def function(x, w):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=10)
        going = lambda state: (state[0] < 30) & (jnp.max(state[1]) < 2.0)  # noqa: E731
        return jax.lax.while_loop(going, lambda state: (state[0] + 1, state[1] @ w), (0, x))

    compiled = jax.jit(function).lower(jnp.ones((8, 16)), jnp.ones((16, 16))).compile()
    assert flops(compiled.as_text()) == (10 + 30) * 2 * 8 * 16 * 16


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("nothing")
