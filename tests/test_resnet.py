"""ResNets: equal to torchvision and to a CIFAR network in plain PyTorch."""

import keras
import numpy as np
import pytest
from cifar_resnet import logits as cifar_logits
from cifar_resnet import published
from references import torchvision

import kerasdl
from kerasdl.backend import forward
from kerasdl.models.resnet import SHORTCUTS, STEMS

TINY = {"num_classes": 3, "width": 4, "optimizer": None}


def graph(*shape, **arguments):
    """Build a model of which only the graph is wanted: nothing is allocated."""
    with keras.StatelessScope(initialize_variables=False):
        return kerasdl.resnet(*shape, **{**arguments, "optimizer": None})


def randomised(module):
    """Move norms and their statistics off 1 and 0, which would hide their use."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, torch.nn.BatchNorm2d):
                child.weight.uniform_(0.5, 1.0)
                child.bias.normal_(0, 0.1)
                child.running_mean.normal_(0, 0.1)
                child.running_var.uniform_(0.5, 1.5)
    return module.eval()


def assert_same(model, module, shape):
    import torch

    kerasdl.load_torch_weights(model, module.state_dict())
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    with torch.no_grad():
        expected = module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(forward(model)(images), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["resnet18", "resnet50"])
def test_logits_equal_torchvision(variant):
    module = randomised(getattr(torchvision().models, variant)())
    shape = (75, 64, 3)  # odd sizes tell symmetric padding from Keras's "same"
    model = kerasdl.resnet(shape, variant=variant, optimizer=None)
    assert_same(model, module, shape)


@pytest.mark.parametrize(("version", "first"), [("v1", 2), ("v1.5", 1), ("v2", 1)])
def test_versions_differ_in_which_convolution_has_the_stride(version, first):
    model = graph((16, 16, 3), version=version, **TINY)
    for stage in (2, 3, 4):
        strides = [
            model.get_layer(f"stage{stage}_unit1_conv{i}").strides for i in (1, 2, 3)
        ]
        assert strides == [(first, first), (3 - first, 3 - first), (1, 1)]


@pytest.mark.parametrize("plain", [False, True])
def test_cifar_logits_equal_the_paper_in_torch(plain):
    shape = (32, 27, 3)
    model = kerasdl.resnet(
        shape,
        10,
        variant="resnet20",
        shortcut="none" if plain else "padding",
        optimizer=None,
    )
    state = published()
    kerasdl.load_torch_weights(model, state)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    expected = cifar_logits(state, images, plain=plain)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(forward(model)(images), expected, atol=1e-4, rtol=0)


def preactivated_logits(model, images):
    """Compute a ResNet-20 of version 2 in plain PyTorch, from the model's weights."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    weights = {
        w.path: torch.tensor(keras.ops.convert_to_numpy(w)) for w in model.weights
    }

    def conv(x, name, stride=1):
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, None, stride, padding=1)

    def norm_relu(x, name):
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        parts = [weights[f"{name}/{part}"] for part in parts]
        return functional.batch_norm(x, *parts).relu()

    x = torch.tensor(images.transpose(0, 3, 1, 2))
    x = norm_relu(conv(x, "stem_conv"), "stem_norm")
    for stage in (1, 2, 3):
        for unit in (1, 2, 3):
            name = f"stage{stage}_unit{unit}"
            grows = stage > 1 and unit == 1
            y = x if stage == unit == 1 else norm_relu(x, f"{name}_norm1")
            more = x.shape[1] // 2
            if grows:
                x = functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
            y = conv(y, f"{name}_conv1", 2 if grows else 1)
            x = x + conv(norm_relu(y, f"{name}_norm2"), f"{name}_conv2")
    pooled = norm_relu(x, "final_norm").mean((2, 3))
    return (pooled @ weights["logits/kernel"] + weights["logits/bias"]).numpy()


def test_v2_logits_equal_the_paper_in_torch():
    shape = (16, 13, 3)
    model = kerasdl.resnet(
        shape, 10, variant="resnet20", version="v2", width=4, optimizer=None
    )
    random = np.random.default_rng(0)
    for layer in model.layers:  # no statistic stays at 0 or 1
        if layer.name.count("norm"):
            noise = [random.uniform(0, 0.2, w.shape) for w in layer.weights]
            layer.set_weights(np.add(layer.get_weights(), noise))
    images = random.normal(size=(2, *shape)).astype("float32")
    expected = preactivated_logits(model, images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(forward(model)(images), expected, atol=1e-4, rtol=0)


def test_v2_bottlenecks_have_the_published_size():
    # timm's resnetv2_50, whose shortcuts have no norm either.
    model = graph(version="v2")
    count = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert count == 25_549_352


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("stem", STEMS)
def test_one_pixel_and_any_channels_are_enough(stem, shortcut):
    model = graph((1, 2, 5), variant="resnet18", stem=stem, shortcut=shortcut, **TINY)
    assert model.get_layer("pool").input.shape == (None, 1, 1, 32)


def test_stem_and_width_can_be_those_of_the_other_family():
    model = graph((32, 32, 3), variant="resnet18", stem="cifar")
    assert model.get_layer("pool").input.shape == (None, 4, 4, 512)
    model = graph((64, 64, 3), variant="resnet20", stem="imagenet")
    assert model.get_layer("pool").input.shape == (None, 4, 4, 64)


def test_zero_init_makes_every_unit_its_shortcut():
    options = {"variant": "resnet20", "width": 2, "optimizer": None}
    model = kerasdl.resnet((8, 8, 3), 10, zero_init=True, **options)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    before = forward(model)(images)
    for layer in model.layers:
        if "unit" in layer.name and "_conv" in layer.name:
            layer.set_weights([weight + 1 for weight in layer.get_weights()])
    np.testing.assert_array_equal(forward(model)(images), before)


def test_stochastic_depth_grows_linearly_and_is_off_at_inference():
    options = {"variant": "resnet20", **TINY}
    model = kerasdl.resnet((8, 8, 3), stochastic_depth=0.9, **options)
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_drop")]
    np.testing.assert_allclose(rates, np.arange(1, 10) / 10)
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    whole = kerasdl.resnet((8, 8, 3), **options)
    whole.set_weights(model.get_weights())
    np.testing.assert_array_equal(forward(model)(images), forward(whole)(images))
    # In training the units of each image are drawn anew.
    drop = model.get_layer("stage3_unit3_drop")
    dropped = keras.ops.convert_to_numpy(drop(np.ones((99, 1, 1, 1)), training=True))
    assert 0 < (dropped == 0).sum() < 99


def test_shortcuts_without_projection_cost_nothing():
    # The comparison of figure 6: same layers, same parameters.
    options = {"variant": "resnet20", **TINY}
    plain = graph((8, 8, 3), shortcut="none", **options)
    residual = graph((8, 8, 3), **options)
    assert plain.count_params() == residual.count_params()
    assert not [layer for layer in plain.layers if "add" in layer.name]
    assert len([layer for layer in residual.layers if "add" in layer.name]) == 9
