"""Functions of single numbers in float32, as short formulas without branches, so that LLVM computes whole vectors of them."""

from typing import Any

import numpy as np

from .simd import float_of
from .work import compiled

single = np.float32
LOG2_E = single(1.4426950408889634)
LN2_UPPER, LN2_LOWER = single(0.693145751953125), single(1.42860677e-06)
"""ln 2 in two parts; the product of the first one with a small whole number is exact."""
LEAST, MOST = single(-87.0), single(88.0)
"""Where e^x stays a normal float32."""
TAYLOR = tuple(single(1 / factor) for factor in (5040, 720, 120, 24, 6, 2))
ONE, HALF, ZERO = single(1.0), single(0.5), single(0.0)
ERF_END = single(4.0)
"""Beyond this erf is 1 in float32."""
ERF_ABOVE = tuple(
    single(c) for c in (1.986846488e-6, 2.845593417e-4, 3.883019292e-3, 5.310073382e-2, 1.935373319e-1, 1.128379139)
)
ERF_BELOW = tuple(single(c) for c in (3.742051015e-5, 1.185494178e-3, 1.520659597e-2, 1.153468137e-1, 5.048505518e-1, 1.0))
"""erf(z) / z = P(z^2) / Q(z^2) to 2.5e-8 for z up to 4, highest power first: the rational function of least largest error."""
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
def erf(z: Any) -> Any:
    """The error function, by P(z^2) / Q(z^2)."""
    z = min(max(z, -ERF_END), ERF_END)
    t = z * z
    p, q = ERF_ABOVE, ERF_BELOW
    above = ((((p[0] * t + p[1]) * t + p[2]) * t + p[3]) * t + p[4]) * t + p[5]
    below = ((((q[0] * t + q[1]) * t + q[2]) * t + q[3]) * t + q[4]) * t + q[5]
    return min(max(z * above / below, -ONE), ONE)


@compiled
def gelu(x: Any) -> Any:
    """x/2 (1 + erf(x / sqrt 2))."""
    return HALF * x * (ONE + erf(x * SQRT_HALF))


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
