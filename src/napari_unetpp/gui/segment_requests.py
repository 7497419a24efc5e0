"""What the Segment dock is set to, as the jobs want it: read from the form and the viewer before they start.

Decides which box a chosen region is (`region_box`), and what is handed to a run (`run_request`), to the
command line (`command_request`) and to the slider (`subject_of`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp.gui.command import CommandRequest
from napari_unetpp.gui.image_layer import check_axes, shapes_box, slice_box, stack_from_layer, visible_box
from napari_unetpp.gui.live_subject import Subject
from napari_unetpp.gui.segment_form import SCREEN, SLICE, WHOLE, Choices, SegmentForm
from napari_unetpp.gui.segmenting import Request, store_stem

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer

    from napari_unetpp.box import Box


def region_box(viewer: Viewer, chosen: Choices) -> Box | None:
    """The region in prediction axes; None is everything.

    Raises
    ------
    ValueError
        Where the shapes that bound it are missing or beside the image.
    """
    if chosen.region == WHOLE:
        return None
    if chosen.region == SLICE:
        return slice_box(viewer, chosen.image, chosen.axes)
    if chosen.region == SCREEN:
        return visible_box(viewer, chosen.image, chosen.axes)
    return shapes_box(chosen.region, chosen.image, chosen.axes)


def run_request(viewer: Viewer, chosen: Choices, memory_mib: int | None) -> Request:
    """For `segment`; raises as `region_box`."""
    return Request(
        stack=stack_from_layer(chosen.image, chosen.axes, chosen.channel),
        model=chosen.model.path,
        level=chosen.level,
        tiling=chosen.tiling,
        planes=chosen.planes,
        device=chosen.device,
        fast=chosen.fast,
        visible=visible_box(viewer, chosen.image, chosen.axes),
        region=region_box(viewer, chosen),
        folder=chosen.folder,
        memory_mib=memory_mib,
        intensity=chosen.intensity,
    )


def command_request(viewer: Viewer, chosen: Choices, memory_mib: int | None) -> CommandRequest:
    """For `describe_command`; raises as `region_box`."""
    image = chosen.image
    source = _source_path(image)
    return CommandRequest(
        source=Path(source) if source else None,
        stack=stack_from_layer(image, chosen.axes, chosen.channel),
        axes=chosen.axes,
        output=(chosen.folder or Path()) / f"{store_stem(image.name, chosen.model.name)}.ome.zarr",
        model=chosen.model.name,
        level=chosen.level,
        tiling=chosen.tiling,
        planes=chosen.planes,
        device=chosen.device,
        fast=chosen.fast,
        region=region_box(viewer, chosen),
        memory_mib=memory_mib,
        intensity=chosen.intensity,
        as_colours=_as_colours(chosen),
    )


def _as_colours(chosen: Choices) -> bool:
    """Whether three channels that nothing calls colours were chosen to be taken as such."""
    header = chosen.model.header
    three = header is not None and header.spec.in_channels == 3
    return three and "c" in chosen.axes and chosen.channel is None and not chosen.image.rgb


def _source_path(image: Image) -> str | None:
    """Path of the file that a layer, or the layer it was split or duplicated from, was opened from."""
    layer: Layer | None = image
    while layer is not None:
        if path := layer.source.path or layer.metadata.get("path"):
            return str(path)
        layer = layer.source.parent() if layer.source.parent is not None else None
    return None


def subject_of(form: SegmentForm) -> Subject:
    """What the slider and the preview are about, as far as it is chosen and possible."""
    image, model, axes = form.chosen_image(), form.chosen_model(), ""
    if image is not None:
        with suppress(ValueError):  # the form says it
            axes = check_axes(image, form.axes.text())
    choice = ""
    if image is not None and form.channel.missing:
        choice = f"{image.name} has {form.channel.count_of_image} channels; choose which of them the model takes"
    usable = model if model is not None and model.header is not None else None
    device, level = form.device.currentData() or "auto", form.level.currentData() or 0
    return Subject(image, axes, usable, device, level, form.intensity.over, form.channel.channel, choice)
