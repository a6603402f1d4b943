"""Recurrent layers as loops over NumPy arrays, in the equations of the papers; parameters are named as the layers'."""

import numpy as np

NUM_STATES = {"lstm": 2, "gru": 1}


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def standardized(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def gate_inputs(params, x):
    """[gates, hidden] from one vector."""
    gates = np.tensordot(x, params["input"], 1)
    if "input_scale" in params:
        gates = standardized(gates) * params["input_scale"]
    return gates + params["bias"]


def next_state(cell, params, gates, state, mask=None):
    """States after a step, [states, hidden], the output first.

    Args:
        gates: what the inputs give to the gates, [gates, hidden].
        mask: h is multiplied with it before U.
    """
    read = state[0] if mask is None else state[0] * mask
    product = np.tensordot(read, params["kernel"], 1)
    if "product_scale" in params:
        product = standardized(product) * params["product_scale"]
    if cell == "gru":
        reset, update = sigmoid(gates[0] + product[0]), sigmoid(gates[1] + product[1])
        candidate = np.tanh(gates[2] + reset * (product[2] + params.get("candidate_bias", 0.0)))
        return np.stack([(1 - update) * candidate + update * state[0]])
    opened, kept, shown = (sigmoid(gates[gate] + product[gate]) for gate in (0, 1, 3))
    memory = kept * state[1] + opened * np.tanh(gates[2] + product[2])
    seen = memory
    if "cell_scale" in params:
        seen = standardized(memory) * params["cell_scale"] + params["cell_bias"]
    return np.stack([shown * np.tanh(seen), memory])


def outputs_of_row(cell, params, gates, segment_ids, *, reverse=False, starts=None, mask=None):
    """[length, hidden]; every segment begins with a state of its own.

    Args:
        gates: of all places, [length, gates, hidden].
        starts: [states, length, hidden], read where a segment begins; None = 0.
    """
    length, hidden = gates.shape[0], gates.shape[2]
    outputs = np.zeros((length, hidden))
    before = None
    for place in reversed(range(length)) if reverse else range(length):
        if segment_ids[place] != before:
            state = np.zeros((NUM_STATES[cell], hidden)) if starts is None else starts[:, place]
            before = segment_ids[place]
        state = next_state(cell, params, gates[place], state, mask)
        outputs[place] = state[0]
    return outputs


def outputs_of_layer(cell, params, x, segment_ids, *, reverse=False, starts=None, masks=None):
    """[batch, length, hidden] from x [batch, length, input]; starts and masks lead with the batch."""
    return np.stack(
        [
            outputs_of_row(
                cell,
                params,
                np.stack([gate_inputs(params, vector) for vector in x[row]]),
                segment_ids[row],
                reverse=reverse,
                starts=None if starts is None else starts[row],
                mask=None if masks is None else masks[row],
            )
            for row in range(len(x))
        ]
    )
