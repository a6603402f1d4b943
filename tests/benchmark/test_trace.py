"""Operations from a trace: their own seconds by hand, and a real trace of a program that is known."""

import jax
import jax.numpy as jnp
import pytest

from seq2seq_jax.benchmark.trace import Operation, by_category, operations, own_seconds, record


def event(name, start, duration, *, thread=1, **arguments):
    return {"ph": "X", "pid": 1, "tid": thread, "ts": start, "dur": duration, "name": name, "args": arguments}


def test_a_loop_does_not_count_what_is_inside_of_it():
    events = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/host:CPU"}},
        event("PjitFunction", 0, 1000),
        event("while.1", 100, 500, hlo_op="while.1"),
        event("dot.2", 100, 300, hlo_op="dot.2"),
        event("call.3", 400, 150, hlo_op="call.3"),
        event("add.4", 420, 50, hlo_op="add.4"),
        event("tanh.5", 600, 10, hlo_op="tanh.5"),
        event("dot.2", 200, 40, thread=2, hlo_op="dot.2"),
        event("fusion.6", 0, 7, thread=3, hlo_category="loop fusion"),
    ]
    found = [(name, category, round(1e6 * own)) for name, category, own in own_seconds(events)]
    assert sorted(found) == [
        ("add.4", "", 50), ("call.3", "", 100), ("dot.2", "", 40), ("dot.2", "", 300),
        ("fusion.6", "loop fusion", 7), ("tanh.5", "", 10), ("while.1", "", 50),
    ]  # fmt: skip


def test_categories_are_summed():
    def operation(category, seconds):
        return Operation(name="", category=category, origin="", seconds=seconds, count=2, share=seconds / 10)

    found = by_category([operation("dot", 2.0), operation("sort", 5.0), operation("dot", 4.0)])
    assert [row[:3] for row in found] == [("dot", 6.0, 4), ("sort", 5.0, 2)]
    assert found[0][3] == pytest.approx(0.6)


def test_a_real_trace_finds_the_product_that_takes_the_time(tmp_path):
    def function(x):
        with jax.named_scope("loop"):
            x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, None, length=5)
        return jnp.sort(x[0])

    x = jnp.full((768, 768), 1e-3)
    compiled = jax.jit(function).lower(x).compile()
    compiled(x).block_until_ready()
    path = record(lambda: compiled(x).block_until_ready(), tmp_path, times=2)
    found = operations(path, compiled.as_text())
    [product] = [each for each in found if "dot" in each.category]
    assert "loop/" in product.origin and product.count == 2 * 5
    assert [each.seconds for each in found] == sorted((each.seconds for each in found), reverse=True)
    assert sum(each.share for each in found) == pytest.approx(1.0)


def test_a_trace_without_operations_is_refused(tmp_path):
    path = record(lambda: None, tmp_path, times=1)
    text = jax.jit(lambda x: x + 1).lower(jnp.ones(2)).compile().as_text()
    with pytest.raises(ValueError, match="has no operations of a compiled program"):
        operations(path, text)
