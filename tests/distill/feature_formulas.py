"""The losses of features as their papers write them: numpy alone, in float64, loop by loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
TAU, POPULATION = 0.5, 40


def _pooled(x: Array, height: int, width: int, how: Callable[[Array], float]) -> Array:
    """Adaptive pooling of (h, w): window i spans floor(i·H/h) to ceil((i+1)·H/h)."""
    out = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        rows = slice(i * x.shape[0] // height, -(-(i + 1) * x.shape[0] // height))
        columns = slice(j * x.shape[1] // width, -(-(j + 1) * x.shape[1] // width))
        out[i, j] = how(x[rows, columns])
    return out


def hint(s: Array, t: Array) -> float:
    return float(((s - t) ** 2).sum() / s.size)


def attention(s: Array, t: Array) -> float:
    height, width = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
    total = 0.0
    for ours, theirs in zip(s, t, strict=True):
        maps = [_pooled((x**2).mean(0), height, width, np.mean) for x in (ours, theirs)]
        a, b = (each / np.sqrt((each**2).sum()) for each in maps)
        total += ((a - b) ** 2).sum()
    return total / (len(s) * height * width)


def _flow(early: Array, late: Array) -> Array:
    height, width = min(early.shape[1], late.shape[1]), min(early.shape[2], late.shape[2])
    early, late = (np.stack([_pooled(c, height, width, np.max) for c in x]) for x in (early, late))
    out = np.zeros((len(early), len(late)))
    for i, j in np.ndindex(out.shape):
        for y, x in np.ndindex(height, width):
            out[i, j] += early[i, y, x] * late[j, y, x] / (height * width)
    return out


def gram(s1: Array, s2: Array, t1: Array, t2: Array) -> float:
    squares = [(_flow(a, b) - _flow(c, d)) ** 2 for a, b, c, d in zip(s1, s2, t1, t2, strict=True)]
    return float(np.mean(squares))


def similarity(s: Array, t: Array) -> float:
    n = len(s)
    both = []
    for x in (s, t):
        g = np.array([[(a * b).sum() for b in x] for a in x])
        both.append(np.array([row / np.sqrt((row**2).sum()) for row in g]))
    return float(((both[0] - both[1]) ** 2).sum() / n**2)


def _huber(x: float) -> float:
    return x**2 / 2 if abs(x) <= 1 else abs(x) - 0.5


def rkd(s: Array, t: Array) -> float:
    n = len(s)
    s, t = s.reshape(n, -1), t.reshape(n, -1)
    pairs = [(i, j) for i, j in np.ndindex(n, n) if i != j]
    mean_s, mean_t = (np.mean([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) for x in (s, t))

    def distance(i: int, j: int) -> float:
        ours, theirs = np.linalg.norm(s[i] - s[j]), np.linalg.norm(t[i] - t[j])
        return float(ours / mean_s - theirs / mean_t)

    def cosine(x: Array, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / lengths) if lengths else 0.0

    distances = [_huber(distance(i, j)) for i, j in pairs]
    angles = [
        _huber(cosine(s, i, j, k) - cosine(t, i, j, k))
        for i, j, k in np.ndindex(n, n, n)
        if len({i, j, k}) == 3
    ]
    return float(np.mean(distances) + (2 * np.mean(angles) if angles else 0))


def vid(mean: Array, raw: Array, t: Array) -> float:
    """-log q(t | s), as the paper has it: log σ + (t - μ)² / 2σ²."""
    total = 0.0
    for place in np.ndindex(*t.shape):
        sigma = math.sqrt(math.log1p(math.exp(raw[place[1]])) + 1e-5)
        total += math.log(sigma) + (t[place] - mean[place]) ** 2 / (2 * sigma**2)
    return total / t.size


def crd(s: Array, positives: Array, negatives: Array) -> float:
    k = negatives.shape[1]

    def h(a: Array, b: Array) -> float:
        e = np.exp(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) / TAU)
        return float(e / (e + k / POPULATION))

    each = [
        np.log(h(a, b)) + sum(np.log(1 - h(a, c)) for c in many)
        for a, b, many in zip(s, positives, negatives, strict=True)
    ]
    return -float(np.mean(each))
