"""From a wrong prediction to a better model as a user goes: segment, correct two slices with the mouse, fine-tune, look."""

import numpy as np
import pytest
import tifffile
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from napari_unetpp.training.corrections import open_corrections
from tests.gui.mouse import LEFT, place, stroke
from tests.gui.test_story import choose, iou

pytestmark = [pytest.mark.gui, pytest.mark.slow]

PAINTED, LOOKED_AT = (3, 11), 7  # slices
BRUSH = 3


@pytest.fixture
def open_from_menu(viewer, qtbot):
    """A dock out of the Plugins menu, once it has looked around."""

    def opened(title, ready):
        choose(viewer.window.plugins_menu, "napari-unetpp", title)
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if title in name]
        qtbot.waitUntil(lambda: ready(dock), timeout=60_000)
        return dock

    return opened


def walks(where, rng, count, length):
    """Ways of so many steps over the voxels of a mask (y, x), each voxel used once."""
    free, found = where.copy(), []
    while len(found) < count:
        y, x = rng.choice(np.argwhere(free))
        way = [(y, x)]
        while len(way) < length:
            free[y, x] = False
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
            inside = [p for p in around if 0 <= p[0] < free.shape[0] and 0 <= p[1] < free.shape[1] and free[p]]
            if not inside:
                break
            # straight on, where that is possible
            (ay, ax), (by, bx) = way[max(0, len(way) - 4)], way[-1]
            y, x = max(inside, key=lambda p: (p[0] - by) * (by - ay) + (p[1] - bx) * (bx - ax))
            way.append((y, x))
        if len(way) > 8:
            found.append(way[::2])
        elif not free.any():
            break
    return found


def test_a_model_learns_what_was_corrected_with_the_mouse(
    viewer, open_from_menu, repository, tmp_path, monkeypatch, predictions, rng, qtbot
):
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    # Membranes are bright here, which the model has never seen.
    stack = 255 - tifffile.imread(repository / "sample_data" / "synthetic_em.tif")[:, :128, :128]
    truth = tifffile.imread(repository / "sample_data" / "synthetic_em_membrane.tif")[:, :128, :128] > 0
    image = viewer.add_image(stack, name="bright", axis_labels=("z", "y", "x"))
    viewer.dims.set_current_step(0, LOOKED_AT)

    # 1. Segment: the slice on the screen is predicted, and wrong
    segment = open_from_menu("Segment", lambda dock: dock.form.chosen_model() is not None)
    segment.form.model.setCurrentText("em-boundaries")
    live = segment.level_box.live_view
    qtbot.waitUntil(lambda: live.reached == 3 and not live.computing, timeout=60_000)
    before = iou(np.asarray(viewer.layers["bright live"].data[LOOKED_AT]) > 0, truth[LOOKED_AT])
    assert before < 0.3

    # 2. Correct two slices: strokes along membranes, and beside them
    viewer.layers.selection.active = image
    correct = open_from_menu("Correct", lambda dock: dock.make_button.isEnabled())
    correct.form.folder.setText(str(tmp_path))
    correct.form.start.setCurrentText("empty")
    correct.form.unpainted.setCurrentText("not annotated")
    qtbot.mouseClick(correct.make_button, LEFT)
    qtbot.waitUntil(lambda: correct.opened is not None and correct.job is None, timeout=30_000)
    layer = correct.opened.layer
    layer.brush_size = BRUSH
    viewer.reset_view()
    for z in PAINTED:
        viewer.dims.set_current_step(0, z)
        inside = distance_transform_edt(~truth[z]) > BRUSH
        for entry, where in ((2, skeletonize(truth[z])), (1, inside)):
            qtbot.mouseClick(correct.labels.legend.buttons[entry], LEFT)
            assert layer.selected_label == entry
            for way in walks(where, rng, 14, 40):
                stroke(viewer, qtbot, [place(viewer, layer, z, int(y), int(x)) for y, x in way])
    stored = np.asarray(open_corrections(correct.opened.corrections.path).labels[:])
    assert sorted(set(np.argwhere(stored)[:, 0])) == list(PAINTED)
    painted = stored[list(PAINTED)]
    assert ((painted == 2) == truth[list(PAINTED)])[painted > 0].mean() > 0.85  # a brush is not a pen
    assert 0.03 < (painted > 0).mean() < 0.5

    # 3. Fine-tune
    train = open_from_menu("Train", lambda dock: dock.form.start.count() > 0)
    qtbot.mouseClick(train.pair_box.add_button, LEFT)
    qtbot.waitUntil(lambda: len(train.pair_box.facts) == 1, timeout=30_000)
    (pair,) = train.pair_box.pairs
    assert pair.label is layer
    train.form.start.setCurrentText("em-boundaries")
    for field, value in {"epochs": 4, "patience": 4, "steps": 15, "batch": 4, "patch": 64}.items():
        getattr(train.form, field).setValue(value)
    train.form.rate.setValue(2e-3)
    viewer.dims.set_current_step(0, LOOKED_AT)
    qtbot.mouseClick(train.plan_button, LEFT)
    qtbot.waitUntil(lambda: train.state in ("planned", "failed") and train.job is None, timeout=60_000)
    assert train.state == "planned", train.status.text()
    qtbot.mouseClick(train.start_button, LEFT)
    qtbot.waitUntil(lambda: train.state in ("done", "failed"), timeout=150_000)
    assert train.state == "done", train.status.text()
    assert len(train.curves.scores[4].getData()[0]) == 4
    assert (tmp_path / "home" / "models" / "em-boundaries tuned.safetensors").exists()

    # 4. The layer has changed, for the better, on a slice that nobody touched
    qtbot.waitUntil(lambda: segment.form.model.currentText() == "em-boundaries tuned", timeout=30_000)
    qtbot.waitUntil(lambda: live.reached is not None and not live.computing, timeout=60_000)

    def after():
        shown = [x for x in viewer.layers if x.name == "bright live"]
        return iou(np.asarray(shown[0].data[LOOKED_AT]) > 0, truth[LOOKED_AT]) if shown else 0.0

    qtbot.waitUntil(lambda: after() > before + 0.2, timeout=30_000)
    # and one click goes back
    qtbot.mouseClick(train.result.back_button, LEFT)
    qtbot.waitUntil(lambda: segment.form.model.currentText() == "em-boundaries", timeout=30_000)
    qtbot.waitUntil(lambda: abs(after() - before) < 0.02, timeout=60_000)
