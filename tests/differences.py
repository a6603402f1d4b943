"""Derivatives from differences of values, in float64."""

import jax
import numpy as np

STEP = 1e-5


def in_double(tree):
    """The arrays of a tree in float64."""
    return jax.tree.map(lambda leaf: np.array(leaf, np.float64), tree)


def gradients(function, arguments):
    """Of function(arguments), a number, by every element of every array of a tree."""

    def of_leaf(leaf):
        gradient = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            value, sides = leaf[index], []
            for sign in (1, -1):
                leaf[index] = value + sign * STEP
                sides.append(function(arguments))
            leaf[index] = value
            gradient[index] = (sides[0] - sides[1]) / (2 * STEP)
        return gradient

    # The leaves are changed in place, where the function sees them.
    arguments = in_double(arguments)
    return jax.tree.map(of_leaf, arguments)


def slopes(function, arguments, directions):
    """Of function(arguments), a number, when one array of a tree after the other moves along its direction."""

    def of_leaf(leaf, direction):
        value, sides = leaf.copy(), []
        for sign in (1, -1):
            leaf[...] = value + sign * STEP * direction
            sides.append(function(arguments))
        leaf[...] = value
        return (sides[0] - sides[1]) / (2 * STEP)

    arguments = in_double(arguments)
    return jax.tree.map(of_leaf, arguments, in_double(directions))
