"""VGG against torchvision, and the average that fits any image size."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from references import torchvision

from kerasdl import load_torch_weights, vgg
from kerasdl.backend import forward
from kerasdl.layers import AdaptiveAveragePooling

HIDDEN = (32, 24)


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def reference_vgg(name):
    """Return torchvision's network with narrow dense layers, to be quick."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = getattr(torchvision().models, name)(init_weights=False)
    sizes = (512 * 7 * 7, *HIDDEN, 10)
    for i, size in zip((0, 3, 6), itertools.pairwise(sizes), strict=True):
        model.classifier[i] = nn.Linear(*size)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # else nothing is left after sixteen of them
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, 0, 0.1)

    def run(x):
        with torch.no_grad():
            x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
            return model.eval()(x).numpy()

    return model.state_dict(), run


@pytest.mark.parametrize(
    ("variant", "normalize", "size"),
    [("vgg16", False, (224, 224)), ("vgg11", True, (71, 32))],
)
def test_vgg_equals_torchvision(variant, normalize, size):
    state_dict, reference = reference_vgg(variant + "_bn" * normalize)
    model = vgg(
        (*size, 3),
        10,
        variant=variant,
        normalize=normalize,
        hidden_units=HIDDEN,
        optimizer=None,
    )
    load_torch_weights(model, state_dict)
    x = images(2, *size, 3)
    expected = reference(x)
    assert np.abs(expected - expected[:1]).max() > 1e-2  # the image matters
    np.testing.assert_allclose(forward(model)(x), expected, atol=1e-4, rtol=0)


def test_dense_layers_may_be_convolutions_as_in_timm():
    state_dict, _ = reference_vgg("vgg11")
    first, second, last = (f"classifier.{i}" for i in (0, 3, 6))
    names = {first: "pre_logits.fc1", second: "pre_logits.fc2", last: "head.fc"}
    shapes = {first: (-1, 512, 7, 7), second: (HIDDEN[1], HIDDEN[0], 1, 1)}
    timm = {}
    for name, value in state_dict.items():
        module, _, parameter = name.rpartition(".")
        shape = shapes.get(module) if parameter == "weight" else None
        timm[f"{names.get(module, module)}.{parameter}"] = (
            value.reshape(shape) if shape else value
        )
    found = []
    for weights in (state_dict, timm):
        model = vgg((32, 32, 3), 10, variant="vgg11", hidden_units=HIDDEN)
        load_torch_weights(model, weights)
        found.append(model.get_weights())
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_weights_of_another_variant_are_refused():
    state_dict, _ = reference_vgg("vgg13")
    model = vgg((32, 32, 3), 10, variant="vgg11", hidden_units=HIDDEN, optimizer=None)
    before = ops.convert_to_numpy(model.weights[0])
    with pytest.raises(ValueError, match=r"'features\.2\.weight'"):
        load_torch_weights(model, state_dict)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.weights[0]), before)


def test_the_average_covers_windows_of_any_image():
    """As `torch.nn.AdaptiveAvgPool2d` defines its windows."""
    for size in (4, 7):
        layer = AdaptiveAveragePooling(size)
        for length in (1, 3, 7, 10, 16):
            x = images(2, length, max(1, length - 2), 3)
            expected = x
            for axis in (1, 2):
                n = x.shape[axis]
                edges = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
                expected = np.stack(
                    [expected.take(range(*edge), axis).mean(axis) for edge in edges],
                    axis,
                )
            found = layer(ops.convert_to_tensor(x))
            assert tuple(found.shape) == layer.compute_output_spec(x).shape
            np.testing.assert_allclose(
                ops.convert_to_numpy(found), expected, atol=1e-6, rtol=0
            )
    assert keras.saving.serialize_keras_object(layer)["config"]["size"] == 7
