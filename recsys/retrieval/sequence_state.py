"""The sequence model's answer to one history. A compiled loop: the model is so small that calling numpy for each of its
steps took most of the time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from features.compiled import compiled

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_EPSILON = np.float32(1e-5)
_GELU = np.float32(math.sqrt(2 / math.pi))
_CUBIC = np.float32(0.044715)


@compiled
def newest_states(
    x: F32, ago: Ints, filters: F32, wide: F32, narrow: F32, norm: F32, attend: F32, joined: F32, gap_bias: F32
) -> F32:
    """(models * size,) float32: the mean of the newest moment's states by each model. `x` (length, models * size) are
    the items' vectors, oldest first, `ago` (length,) how many moments ago each was; the other arrays are those of
    `SequenceSource`.
    """
    models, size = len(norm), norm.shape[2]
    states = np.empty(models * size, np.float32)
    for k in range(models):
        own = slice(k * size, (k + 1) * size)
        vectors = np.ascontiguousarray(x[:, own])
        rest = (attend[k : k + 1], joined[k : k + 1], gap_bias[k : k + 1])  # of no rows where the model only filters
        states[own] = _newest_state(vectors, ago, filters[k], wide[k], narrow[k], norm[k], *rest)
    return states


@compiled
def _newest_state(
    x: F32, ago: Ints, filters: F32, wide: F32, narrow: F32, norm: F32, attend: F32, joined: F32, gap_bias: F32
) -> F32:
    """(size,) float32: see `newest_states`, of one model."""
    length, last = len(x), len(filters) - 1
    newest = length - 1
    while newest > 0 and ago[newest - 1] == ago[length - 1]:
        newest -= 1
    for layer in range(len(filters)):
        wanted = newest if layer == last else 0  # of the last layer only the newest states are needed
        standardised = _standardised(x)
        x = x[wanted:] + _filtered(standardised, ago, filters[layer], wanted)
        if len(attend):
            read = _attention(_linear(standardised, attend[0, layer]), ago, gap_bias[0, layer], wanted)
            x = x + _linear(read, joined[0, layer])
        hidden = _linear(_standardised(x), wide[layer])
        _gelu(hidden)
        x = x + _linear(hidden, narrow[layer])
    x = _standardised(x)
    state = np.zeros(x.shape[1], np.float32)
    for row in range(len(x)):
        state += x[row] * norm[0] + norm[1]
    return state / np.float32(len(x))


@compiled
def _filtered(x: F32, ago: Ints, weights: F32, wanted: int) -> F32:
    """(length - wanted, size): for the tokens from `wanted` on the means of each of the newest moments and of all that
    is earlier, times `weights` (gaps, size) by how many moments ago; alike for all tokens of a moment.
    """
    length, size = x.shape
    far = len(weights) - 1
    sums, starts = np.zeros((length + 1, size), np.float32), np.zeros(length + 1, np.int64)  # before and of each moment
    moments = 0
    for token in range(length):
        if token == 0 or ago[token] != ago[token - 1]:
            starts[moments] = token
            moments += 1
            sums[moments] = sums[moments - 1]
        sums[moments] += x[token]
    starts[moments] = length
    out = np.zeros((length - wanted, size), np.float32)
    for moment in range(moments):
        if starts[moment] < wanted:
            continue
        own = np.zeros(size, np.float32)
        for other in range(moment, -1, -1):
            gap = ago[starts[other]] - ago[starts[moment]]
            if gap >= far:
                own += weights[far] * (sums[other + 1] / np.float32(starts[other + 1]))
                break
            count = np.float32(starts[other + 1] - starts[other])
            own += weights[gap] * ((sums[other + 1] - sums[other]) / count)
        for token in range(starts[moment], starts[moment + 1]):
            out[token - wanted] = own
    return out


@compiled
def _attention(parts: F32, ago: Ints, bias: F32, wanted: int) -> F32:
    """(length - wanted, size): what the tokens from `wanted` on read of those that are not later. `parts` (length, 3
    size) are queries, keys and values, `bias` (heads, max_gap + 1) goes by the moments between two tokens.
    """
    length, size = len(parts), parts.shape[1] // 3
    heads, largest = len(bias), bias.shape[1] - 1
    width = size // heads
    scale = np.float32(1 / math.sqrt(width))
    read = np.empty((length - wanted, size), np.float32)
    for head in range(heads):
        query, key, value = [
            np.ascontiguousarray(parts[:, k * size + head * width : k * size + (head + 1) * width]) for k in range(3)
        ]
        weights = np.dot(query[wanted:], key.T)
        for token in range(wanted, length):
            own = weights[token - wanted]
            seen = length  # one moment has no order: of its tokens each sees all
            while seen > token + 1 and ago[seen - 1] < ago[token]:
                seen -= 1
            most = np.float32(-np.inf)
            for other in range(seen):
                own[other] = own[other] * scale + bias[head, min(ago[other] - ago[token], largest)]
                most = max(most, own[other])
            total = np.float32(0)
            for other in range(seen):
                own[other] = math.exp(own[other] - most)
                total += own[other]
            for other in range(length):
                own[other] = own[other] / total if other < seen else np.float32(0)
        read[:, head * width : (head + 1) * width] = np.dot(weights, value)
    return read


@compiled
def _linear(x: F32, weights: F32) -> F32:
    """`x` times a matrix whose last row is the bias."""
    return np.asarray(np.dot(x, weights[:-1]) + weights[-1])


@compiled
def _standardised(x: F32) -> F32:
    out = np.empty_like(x)
    for row in range(len(x)):
        centred = x[row] - x[row].mean()
        out[row] = centred / np.sqrt((centred * centred).mean() + _EPSILON)
    return out


@compiled
def _gelu(x: F32) -> None:
    """The tanh form (Hendrycks and Gimpel 2016), in place."""
    for row in range(len(x)):
        for k in range(x.shape[1]):
            value = x[row, k]
            inner = _GELU * (value + _CUBIC * value * value * value)
            x[row, k] = np.float32(0.5) * value * (np.float32(1) + np.tanh(inner))
