"""Model FLOPs, counted in the same way for every architecture.

Model FLOPs are those of matrix products on tokens: 2 for each multiply-add. Padding, recomputation, pairs that causal
attention masks, and elementwise operations do not count. Lengths may be arrays over examples, which broadcast to one
result per example.

Source: Chowdhery et al. 2022, appendix B.
"""

from jaxtyping import Array, Num
from numpy import ndarray

Amount = int | float | Num[ndarray | Array, "..."]
"""A length (tokens) or a number of FLOPs, for one example or an array of them."""

TRAINING = 3
"""Ratio of the FLOPs of forward and backward pass to those of the forward pass: the backward pass multiplies the
gradient of each product by both operands."""


def product_flops(rows: Amount, inner: int, columns: int) -> Amount:
    """FLOPs of a product of [rows, inner] and [inner, columns]."""
    return 2.0 * rows * inner * columns


def causal_pairs(length: Amount) -> Amount:
    """Pairs of a position and itself or an earlier one, counted as half of all pairs, their limit for long rows."""
    return 0.5 * length**2
