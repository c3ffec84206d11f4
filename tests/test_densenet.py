"""DenseNet: torchvision's numbers, the paper's sizes and dropout."""

import math
import re

import keras
import numpy as np
import pytest
from keras import ops
from references import settled, torch_logits, torchvision

from kerasdl.backend import forward
from kerasdl.models.densenet import densenet
from kerasdl.torch_weights import load_torch_weights

BLOCKS = (1, 2)
SIZE = (33, 38)  # odd and even, so that every stride meets both


def shapes_only(*arguments, **options):
    """Build a model without allocating its weights."""
    with keras.StatelessScope(initialize_variables=False):
        return densenet(*arguments, optimizer=None, **options)


def test_forward_is_torchvisions():
    images = np.random.default_rng(0).normal(size=(8, *SIZE, 3)).astype("float32")
    theirs = settled(torchvision().models.densenet121(), images)
    ours = densenet((*SIZE, 3), optimizer=None)
    load_torch_weights(ours, theirs.state_dict())
    expected = torch_logits(theirs, images[:2])
    assert np.abs(expected[0] - expected[1]).max() > 1  # the image matters
    np.testing.assert_allclose(forward(ours)(images[:2]), expected, atol=1e-4, rtol=0)


def cifar_parameters(units: int, growth: int, *, compact: bool) -> int:
    """Count the weights of the form for 32 x 32 pixels, three channels, ten classes."""
    channels = 2 * growth if compact else 16
    total = 3 * 9 * channels
    for stage in range(3):
        if stage:
            after = channels // 2 if compact else channels
            total += 2 * channels + channels * after
            channels = after
        for _ in range(units):
            read = channels
            if compact:
                total += 2 * channels + channels * 4 * growth
                read = 4 * growth
            total += 2 * read + read * 9 * growth
            channels += growth
    return total + 2 * channels + 10 * channels + 10


@pytest.mark.parametrize(
    ("variant", "expected", "millions"),
    [
        ("densenet40", cifar_parameters(12, 12, compact=False), 1.0),
        ("densenet100", cifar_parameters(32, 12, compact=False), 7.0),
        ("densenet_bc100", cifar_parameters(16, 12, compact=True), 0.8),
    ],
)
def test_cifar_form_has_the_papers_size(variant, expected, millions):
    model = shapes_only((32, 32, 3), 10, variant=variant)
    found = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert found == expected
    assert round(found / 1e6, 1) == millions
    weighted = (keras.layers.Conv2D, keras.layers.Dense)
    depth = sum(isinstance(layer, weighted) for layer in model.layers)
    assert variant.endswith(str(depth)), depth
    sizes = [model.get_layer(f"transition{i}_pool").output.shape[1] for i in (1, 2)]
    assert sizes == [16, 8]
    assert model.get_layer("final_relu").output.shape[1] == 8


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({"variant": "densenet121"}, 29),
        ({"variant": "densenet121", "depths": BLOCKS}, 5),
        ({"variant": "densenet40"}, 4),
        ({"variant": "densenet_bc100", "depths": (1, 1, 1, 1)}, 8),
    ],
)
def test_smallest_image_leaves_one_pixel(options, smallest):
    model = shapes_only((smallest, smallest + 1, 1), 2, **options)
    assert model.get_layer("final_relu").output.shape[1:3] == (1, 1)
    with pytest.raises(ValueError, match=f"at least {smallest}"):
        shapes_only((smallest + 1, smallest - 1, 1), 2, **options)


@pytest.mark.parametrize("variant", ["densenet121", "densenet40", "densenet_bc100"])
def test_dropout_follows_every_convolution_but_the_first(variant):
    options = {"variant": variant, "depths": BLOCKS, "growth_rate": 4}
    model = shapes_only((8, 8, 1), 2, dropout=0.2, **options)
    drops = [x for x in model.layers if isinstance(x, keras.layers.Dropout)]
    before = [x.input._keras_history.operation for x in drops]
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert before == [x for x in convolutions if x.name != "stem_conv"]
    assert {x.rate for x in drops} == {0.2}
    plain = shapes_only((8, 8, 1), 2, **options)
    assert not any(isinstance(x, keras.layers.Dropout) for x in plain.layers)


def test_the_names_of_torchvisions_downloads_fit():
    tiny = {"num_init_features": 8, "growth_rate": 4, "block_config": (2, 1)}
    theirs = torchvision().models.DenseNet(**tiny, num_classes=2)
    state = {
        re.sub(r"(denselayer\d\.\w+)(\d)", r"\1.\2", name): value
        for name, value in theirs.state_dict().items()
    }
    assert "features.denseblock1.denselayer2.norm.1.weight" in state
    # torchvision calls its last norm "norm5" whatever the number of blocks.
    ours = densenet((8, 8, 3), 2, depths=(2, 1), growth_rate=4, optimizer=None)
    load_torch_weights(ours, state)
    found = ours.get_layer("stage1_unit2_conv1").kernel
    expected = state["features.denseblock1.denselayer2.conv.1.weight"].numpy()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(found)[0, 0], expected[..., 0, 0].T
    )
