"""One array in one pass, as a whole or level by level.

Decides, in this order: what is kept of a region between its levels (`RegionCache`), how it is
predicted at once (`predict_region`), and how in steps so short that somebody who has scrolled on
need not wait for it (`deepen`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from napari_unetpp.box import Box
from napari_unetpp.inference.backends import Backend, prepare
from napari_unetpp.inference.inputs import network_input
from napari_unetpp.inference.joining import Buffer
from napari_unetpp.inference.kernels import add_node, head_logits
from napari_unetpp.model.extents import enter, leave
from napari_unetpp.model.sampling import as_seen, read_raw, scale_stack
from napari_unetpp.model.unetpp import probabilities
from napari_unetpp.stacks import open_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Scaling
    from napari_unetpp.model.unetpp import Nodes


@dataclass(slots=True)
class RegionCache:
    """What is computed of one region so far, so that a deeper level continues instead of beginning anew.

    Make one for each region and backend, and hand it to `predict_region` or `deepen` level after level.

    Attributes
    ----------
    heads : dict
        From level to its probabilities (class, [z,] y, x).
    """

    shape: tuple[int, ...] = ()
    image: torch.Tensor | None = None
    nodes: Nodes = field(default_factory=dict)
    heads: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that its nodes hold."""
        return sum(node.nbytes for node in self.nodes.values())

    def begin(self, image: NDArray[Any], model: Model, backend: Backend, scaling: Scaling | None = None) -> None:
        """Take a region in, as `predict_region` does with an empty cache; it refuses the same."""
        _check_region(image, model)
        batch = _entered(image, model, scaling)
        self.shape = image.shape[1:]
        self.image = backend.layers.enter(enter(torch.from_numpy(batch), model.spec))


def predict_region(
    image: NDArray[Any],
    model: Model,
    level: int | None = None,
    *,
    scaling: Scaling | None = None,
    backend: Backend | None = None,
    cache: RegionCache | None = None,
) -> list[NDArray[np.float32]]:
    """Probabilities (class, [z,] y, x) of L1..`level`, from one pass over the whole array.

    Parameters
    ----------
    image
        Raw voxels (channel, [z,] y, x).
    level
        Deepest level; None is all that the model has.
    scaling
        That of the stack which the region is part of; where it is not plain, read the region from `as_seen`. None measures
        the region by itself.
    backend
        The model made ready (`prepare`), for whoever predicts many regions; None prepares it now.
    cache
        Nodes of earlier calls for the same image: only the missing diagonals are computed, so L1 and
        then L2, L3 and L4 together cost what L4 costs.

    Raises
    ------
    ValueError
        Where axes or channels are not those of the model, the image is empty or holds NaN.
    """
    backend = backend or prepare(model)
    if cache is None:
        _check_region(image, model)
        batch = _entered(image, model, scaling)
        return [head[0] for head in backend.run(batch, level, band=backend.region_band(batch.shape[2:], level))]
    if cache.image is None:
        cache.begin(image, model, backend, scaling)
    elif cache.shape != image.shape[1:]:
        raise ValueError(f"a cache of a region of shape {cache.shape} for one of {image.shape[1:]}; make a new one")
    for _ in deepen(cache, backend, level):
        pass
    return [cache.heads[d] for d in backend.spec.heads_up_to(level)]


def deepen(cache: RegionCache, backend: Backend, level: int | None = None) -> Iterator[int | None]:
    """A level whenever its probabilities have come into `cache.heads`, and None after every other node.

    Whoever iterates may stop at any time and go on later, also up to another level.
    """
    heads = backend.spec.heads_up_to(level)
    if cache.image is None:
        raise ValueError("the cache is empty; begin it with a region")
    buffer = Buffer() if backend.device.type == "cpu" else None
    for i, j in backend.spec.nodes:  # diagonal by diagonal
        d = i + j
        if d > heads[-1]:
            return
        if (i, j) not in cache.nodes:
            with torch.inference_mode(), backend.computing():
                add_node(backend.layers, cache.nodes, cache.image, i, j, buffer)
            if i > 0 or d not in heads:
                yield None
        if i == 0 and d in heads and d not in cache.heads:
            with torch.inference_mode(), backend.computing():
                logits = leave(head_logits(backend.layers, cache.nodes, d), backend.spec, cache.shape)
                cache.heads[d] = probabilities(logits.float())[0].cpu().numpy()
            yield d


def _entered(image: NDArray[Any], model: Model, scaling: Scaling | None) -> NDArray[np.float32]:
    """Network input (1, channel, [z,] y, x) out of raw voxels."""
    if scaling is None:
        stack = open_stack(image, axes="c" + "zyx"[-model.spec.ndim :])
        stack, scaling = as_seen(stack, scale_stack(stack, model.intensity, model.spec.in_channels))
        image = read_raw(stack, Box.of(stack.shape_predicted))
    return network_input(image, model, scaling)[None]


def _check_region(image: NDArray[Any], model: Model) -> None:
    spec = model.spec
    gray = image.ndim == spec.ndim + 1 and image.shape[0] == 1 and model.intensity.replicate_gray
    if image.ndim != spec.ndim + 1 or (image.shape[0] != spec.in_channels and not gray):
        raise ValueError(
            f"image of shape {image.shape} where model {model.card.name!r} takes "
            f"{spec.in_channels} channels first, then {spec.ndim} spatial axes"
        )
    if image.size == 0:
        raise ValueError(f"image of shape {image.shape} is empty; there is nothing to segment")
