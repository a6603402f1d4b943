"""Costs of programs written by hand, with peaks that make the arithmetic plain."""

import dataclasses

import numpy as np
import pytest
from jax.sharding import Mesh

from seq2seq_jax.compilation.cost import axes_of, cost_of
from seq2seq_jax.parallel.chips import CHIPS

CHIP = dataclasses.replace(
    CHIPS["h100"], flops=1000.0, memory_bandwidth=100.0, interconnect_bandwidth=10.0, network_bandwidth=1.0
)

PROGRAM = """\
HloModule step

%body (state: (s32[], f32[4,8], f32[3,8,8])) -> (s32[], f32[4,8], f32[3,8,8]) {
  %state = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}) parameter(0)
  %index = s32[] get-tuple-element(%state), index=0
  %one = s32[] constant(1)
  %next = s32[] fusion(%index, %one), kind=kLoop, calls=%add_one
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %layers = f32[3,8,8]{2,1,0} get-tuple-element(%state), index=2
  %y = f32[4,8]{1,0} fusion(%x, %layers, %index), kind=kOutput, calls=%layer
  ROOT %out = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}) tuple(%next, %y, %layers)
}

%add_one (i: s32[], o: s32[]) -> s32[] {
  %i = s32[] parameter(0)
  %o = s32[] parameter(1)
  ROOT %sum = s32[] add(%i, %o)
}

%layer (a: f32[4,8], b: f32[3,8,8], c: s32[]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[3,8,8]{2,1,0} parameter(1)
  %c = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,8,8]{2,1,0} dynamic-slice(%b, %c, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %kernel = f32[8,8]{1,0} bitcast(%slice)
  ROOT %product = f32[4,8]{1,0} dot(%a, %kernel), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%condition (s: (s32[], f32[4,8], f32[3,8,8])) -> pred[] {
  %s = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s), index=0
  %three = s32[] constant(3)
  ROOT %going = pred[] compare(%i.1, %three), direction=LT
}

%add (p: f32[], q: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  %q = f32[] parameter(1)
  ROOT %r = f32[] add(%p, %q)
}

ENTRY %main (x.1: f32[4,8], w: f32[3,8,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %w = f32[3,8,8]{2,1,0} parameter(1)
  %zero.1 = s32[] constant(0)
  %first = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}) tuple(%zero.1, %x.1, %w)
  %loop = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}) while(%first), condition=%condition, body=%body
  %last = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  %within = f32[4,8]{1,0} all-reduce(%last), replica_groups=[4,4]<=[16], to_apply=%add
  ROOT %across = f32[4,8]{1,0} all-reduce(%within), replica_groups=[4,4]<=[4,4]T(1,0), to_apply=%add
}
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that has a number, and one in its process."""

    id: int
    process_index: int = 0


def mesh_of_16():
    """Sixteen GPUs in two hosts, as a mesh of 4 x 4."""
    return Mesh(np.array([Device(number) for number in range(16)]).reshape(4, 4), ("data", "fsdp"))


@pytest.fixture(name="cost")
def cost_of_program():
    return cost_of(PROGRAM, mesh=mesh_of_16(), chip=CHIP, torus_dims=0, unbounded_trips=1)


def test_products_are_counted_with_the_trips_of_their_loop(cost):
    assert cost.flops == 3 * 2 * 4 * 8 * 8


def test_of_stacked_parameters_each_trip_reads_one_layer(cost):
    """x and y [4, 8], a kernel [8, 8] and its index; and for the next index two numbers in and one out."""
    assert cost.memory_bytes == 3 * 4 * (4 * 8 + 4 * 8 + 8 * 8 + 1 + 3)


def test_an_exchange_takes_the_slowest_of_its_links(cost):
    """Of four in a ring each sends 2 x 3/4 of the 128 bytes: at 10 a second in a host, at 1 between hosts."""
    sent = 2 * 3 / 4 * 128
    found = {each.axes: each for each in cost.exchanges}
    assert (found["fsdp"].bytes, found["fsdp"].seconds) == (sent, pytest.approx(sent / 10))
    assert (found["data"].bytes, found["data"].seconds) == (sent, pytest.approx(sent / 1))
    assert [each.count for each in cost.exchanges] == [1, 1]


def test_times_are_a_maximum_and_a_sum(cost):
    assert cost.seconds == (
        max(cost.operation_seconds, cost.exchange_seconds),
        pytest.approx(cost.operation_seconds + cost.exchange_seconds),
    )
    # A layer's 512 FLOPs take 0.512 s, its traffic five seconds: memory decides.
    assert cost.operation_seconds == pytest.approx(cost.memory_bytes / 100)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ([[0, 1, 2, 3], [4, 5, 6, 7]], "fsdp"),
        ([[0, 4, 8, 12]], "data"),
        ([[0, 1, 4, 5]], "data+fsdp"),
        ([[3, 0], [0, 1]], "fsdp"),
    ],
)
def test_axes_are_those_along_which_members_differ(groups, axes):
    assert axes_of(np.array(groups), mesh_of_16()) == axes
