"""Codes and centroids that keep a layer's outputs, not its weights: what one weight loses, the others make up for.

A layer's outputs are x·W. With H = E[x xᵀ] the squared error of Ŵ in them is Σ_o s_o (ŵ_o - w_o)ᵀ H (ŵ_o - w_o) over
the outputs o, s_o being what the loss feels of output o. Row after row of W is rounded to its nearest centroid, and
the rows to come are corrected by the best linear guess of what is lost (Frantar et al. 2022, GPTQ, after Hassibi and
Stork 1993). For given codes the best centroids solve K linear equations; the two steps take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kmeans import kmeans
from .nearest import midpoints
from .sample import Sample

Float = NDArray[np.float64]

# added to the diagonal of H, as a part of its mean: inputs of a few batches never span everything
DAMPING = 0.01
# the same where a weight follows changed inputs: a direction few examples have must not carry it away
FOLLOWING_DAMPING = 0.1
# what a group without inputs counts, as a part of the others' mean
DEAD_PART = 1e-6
# turns of codes and centroids
ROUNDS = 5
# rows corrected one by one before all others are corrected in one product
BLOCK = 64


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Products of one weight: `groups` independent ones, as a depthwise kernel's channels.

    weight: (groups, inputs, outputs). gram: (groups, inputs, inputs), E[x xᵀ]. importance: (groups, outputs).
    """

    weight: Float
    gram: Float
    importance: Float

    def error(self, weight: Float) -> float:
        """Σ s (ŵ - w)ᵀ H (ŵ - w): what `weight` in place of ours costs."""
        lost = weight - self.weight
        return float(np.sum((self.gram @ lost) * lost * self.importance[:, None, :]))


def following(linear: LinearMap, cross: Float) -> LinearMap:
    """The map that gives, from inputs x that earlier layers' clustering has changed, most nearly what ours gave from x'.

    linear: its gram is that of x. cross: (groups, inputs, inputs), E[x x'ᵀ]. By least squares w + H⁻¹(E[x x'ᵀ] - H) w.
    """
    missed = (cross - linear.gram) @ linear.weight
    weight = linear.weight + np.linalg.solve(_damped(linear.gram, FOLLOWING_DAMPING), missed)
    return LinearMap(weight, linear.gram, linear.importance)


def compensate(
    linear: LinearMap,
    clusters: int,
    pin_zero: bool = False,
    allowed: Callable[[Float], Float] = np.asarray,
) -> tuple[Float, Float]:
    """(centroids ascending (K,), clustered weight (groups, inputs, outputs)) of the least error found.

    allowed: ascending centroids to the nearest ones that may be, as whole numbers; they may become equal.
    """
    order, linear = _by_energy(linear)
    gram = linear.gram
    inverse = _inverse_factors(gram)
    energy = np.diagonal(gram, axis1=1, axis2=2)
    felt = energy[:, :, None] * linear.importance[:, None, :]
    counted = felt > DEAD_PART * felt.mean()
    centroids = allowed(kmeans(Sample.of(linear.weight[counted], felt[counted]), clusters))
    best: tuple[float, Float, Float] | None = None
    for _ in range(ROUNDS):
        if pin_zero:
            centroids[np.argmin(np.abs(centroids))] = 0
        codes = _round(linear.weight, inverse, centroids)
        centroids = allowed(_best_centroids(linear, codes, centroids, pin_zero))
        clustered = centroids[codes]
        error = linear.error(clustered)
        if best is None or error < best[0]:
            best = (error, np.sort(centroids), clustered)
        centroids = np.sort(centroids)
    assert best is not None  # noqa: S101 # ROUNDS is not 0
    return best[1], np.take_along_axis(best[2], np.argsort(order, axis=1)[:, :, None], axis=1)


def _by_energy(linear: LinearMap) -> tuple[NDArray[np.intp], LinearMap]:
    """(order (groups, inputs), the map with its strongest inputs first and a damped gram): they are rounded best."""
    order = np.argsort(-np.diagonal(linear.gram, axis1=1, axis2=2), axis=1, kind="stable")
    rows = np.take_along_axis(_damped(linear.gram), order[:, :, None], axis=1)
    gram = np.take_along_axis(rows, order[:, None, :], axis=2)
    weight = np.take_along_axis(linear.weight, order[:, :, None], axis=1)
    return order, LinearMap(weight, gram, linear.importance)


def _damped(gram: Float, part: float = DAMPING) -> Float:
    """H with a diagonal that can be inverted; groups whose inputs are always 0 count next to nothing beside the others."""
    size = gram.shape[-1]
    mean = np.trace(gram, axis1=1, axis2=2) / size
    alive = float(mean[mean > 0].mean()) if np.any(mean > 0) else 1.0
    level = part * np.where(mean > 0, mean, DEAD_PART * alive)
    return np.asarray(gram + level[:, None, None] * np.eye(size))


def _inverse_factors(gram: Float) -> Float:
    """Upper triangular U of each group with UᵀU = H⁻¹."""
    return np.asarray(np.swapaxes(np.linalg.cholesky(np.linalg.inv(gram)), 1, 2))


def _round(weight: Float, inverse: Float, centroids: Float) -> NDArray[np.intp]:
    """Codes of all rows, each row rounded after it was corrected for those before it."""
    left = weight.copy()
    codes = np.empty(weight.shape, np.intp)
    borders = midpoints(centroids)
    inputs = weight.shape[1]
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        losses = np.empty((weight.shape[0], end - start, weight.shape[2]))
        for row in range(start, end):
            codes[:, row] = np.searchsorted(borders, left[:, row])
            lost = (left[:, row] - centroids[codes[:, row]]) / inverse[:, row, row, None]
            losses[:, row - start] = lost
            left[:, row:end] -= inverse[:, row, row:end, None] * lost[:, None, :]
        left[:, end:] -= np.swapaxes(inverse[:, start:end, end:], 1, 2) @ losses
    return codes


def _best_centroids(
    linear: LinearMap, codes: NDArray[np.intp], before: Float, pin_zero: bool
) -> Float:
    """Centroids of the least error for given codes; one no weight uses, and a pinned 0, stay where they were."""
    count = len(before)
    normal, right = np.zeros((count, count)), np.zeros(count)
    target = linear.gram @ linear.weight
    for group, gram in enumerate(linear.gram):
        for output in range(codes.shape[2]):
            members = np.eye(count)[codes[group, :, output]]
            weight = linear.importance[group, output]
            normal += weight * (members.T @ gram @ members)
            right += weight * (members.T @ target[group, :, output])
    used = np.bincount(codes.reshape(-1), minlength=count) > 0
    if pin_zero:
        used &= before != 0
    solved = before.copy()
    solved[used] = np.linalg.lstsq(normal[np.ix_(used, used)], right[used], rcond=1e-10)[0]
    return solved
