"""How model FLOPs are counted, for every architecture.

The FLOPs of a model are those of its matrix products on the tokens that there are: 2 for each multiplication and
addition. Padding, recomputation, pairs that causal attention masks, and everything element by element do not count.
Lengths may be arrays of many examples, which broadcast, for one result an example.

Source: Chowdhery et al. 2022, appendix B.
"""

from jaxtyping import Array, Num
from numpy import ndarray

Amount = int | float | Num[ndarray | Array, "..."]
"""A length (tokens) or a number of FLOPs, of one example or of many."""

TRAINING = 3
"""FLOPs of a forward and a backward pass, over those of the forward pass: the backward pass multiplies each product's
gradient with both of its operands."""


def product_flops(rows: Amount, inner: int, columns: int) -> Amount:
    """FLOPs of [rows, inner] times [inner, columns]."""
    return 2.0 * rows * inner * columns


def causal_pairs(length: Amount) -> Amount:
    """Pairs of a place and itself or one before it, as the half of all pairs that they come to be."""
    return 0.5 * length**2
