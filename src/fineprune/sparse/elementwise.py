"""Functions of single numbers in float32, as short formulas without branches, so that LLVM computes whole vectors of them."""

from typing import Any

import numpy as np

from .tasks import compiled
from .vectors import float_of

single = np.float32
LOG2_E = single(1.4426950408889634)
LN2_UPPER, LN2_LOWER = single(0.693145751953125), single(1.42860677e-06)
"""ln 2 in two parts; the product of the first one with a small whole number is exact."""
LEAST, MOST = single(-87.0), single(88.0)
"""Where e^x stays a normal float32."""
TAYLOR = tuple(single(1 / factor) for factor in (5040, 720, 120, 24, 6, 2))
ONE, HALF, ZERO = single(1.0), single(0.5), single(0.0)
ERF_P = single(0.3275911)
ERF_A = tuple(single(a) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))
SQRT_HALF = single(0.5**0.5)
TANH_A, TANH_B = single(2 * (2 / np.pi) ** 0.5), single(0.044715)


@compiled
def exp(x: Any) -> Any:
    """e^x = 2^n e^r with r at most ln 2 / 2, and the Taylor series of e^r; clamped where it would leave float32."""
    x = min(max(x, LEAST), MOST)
    n = np.rint(x * LOG2_E)
    r = (x - n * LN2_UPPER) - n * LN2_LOWER
    y = TAYLOR[0]
    y = y * r + TAYLOR[1]
    y = y * r + TAYLOR[2]
    y = y * r + TAYLOR[3]
    y = y * r + TAYLOR[4]
    y = y * r + TAYLOR[5]
    y = y * r * r + r + ONE
    return y * float_of((np.int32(n) + np.int32(127)) << np.int32(23))


@compiled
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return ONE / (ONE + exp(-x))


@compiled
def gelu(x: Any) -> Any:
    """x/2 (1 + erf(x / sqrt 2)), with erf to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    z = abs(x) * SQRT_HALF
    t = ONE / (ONE + ERF_P * z)
    y = ((((ERF_A[0] * t + ERF_A[1]) * t + ERF_A[2]) * t + ERF_A[3]) * t + ERF_A[4]) * t
    tail = HALF * y * exp(-z * z)  # (1 - erf z) / 2
    return x * (ONE - tail if x > ZERO else tail)


@compiled
def gelu_tanh(x: Any) -> Any:
    """x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), where (1 + tanh z) / 2 is sigmoid(2 z)."""
    return x * sigmoid(TANH_A * (x + TANH_B * x * x * x))


@compiled
def silu(x: Any) -> Any:
    """x sigmoid(x)."""
    return x * sigmoid(x)


@compiled
def activate(activation: Any, row: Any) -> None:
    """Applies an `Activation`, by its number, to each element of an array."""
    if activation == 1:
        for i in range(len(row)):
            row[i] = gelu(row[i])
    elif activation == 2:
        for i in range(len(row)):
            row[i] = gelu_tanh(row[i])
    elif activation == 3:
        for i in range(len(row)):
            row[i] = max(row[i], ZERO)
    elif activation == 4:
        for i in range(len(row)):
            row[i] = silu(row[i])
