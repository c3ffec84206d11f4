"""The plain network, LeNet-5 and AlexNet against PyTorch, NumPy and their papers."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from references import torchvision

from kerasdl import alexnet, cnn, lenet5, load_torch_weights
from kerasdl.backend import forward
from kerasdl.models.lenet import CONNECTIONS

TORCH_CLOSE = {"atol": 1e-4, "rtol": 0}


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def weights_of(model):
    """Return kernel and bias by layer name, in the order of the layers."""
    return {
        layer.name: [ops.convert_to_numpy(weight) for weight in layer.weights]
        for layer in model.layers
        if layer.weights
    }


def torch_forward(model, x):
    """Run a torch module on channels-last images, as in inference."""
    import torch

    with torch.no_grad():
        found = model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return found.numpy()


def torch_dense(*sizes):
    """Chain dense layers with ReLU between them."""
    from torch import nn

    parts = [
        part
        for size in itertools.pairwise(sizes)
        for part in (nn.Linear(*size), nn.ReLU())
    ]
    return nn.Sequential(*parts[:-1])


# The plain network


def test_plain_stages_are_convolve_normalise_rectify_pool():
    model = cnn((9, 12, 2), filters=(4, 6), optimizer=None)
    convolution = ("conv1", "norm1", "relu1")
    names = [f"stage{i}_{part}" for i in (1, 2) for part in (*convolution, "pool")]
    assert [layer.name for layer in model.layers] == [
        *("image", *names),
        *("pool", "dropout", "logits"),
    ]
    assert model.get_layer("stage2_pool").output.shape == (None, 2, 3, 6)


def test_plain_stages_may_convolve_more_than_once():
    model = cnn((8, 8, 1), filters=(4, 6), depths=(1, 3), optimizer=None)
    kernels = {
        layer.name: layer.kernel.shape
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    assert kernels == {
        "stage1_conv1": (3, 3, 1, 4),
        "stage2_conv1": (3, 3, 4, 6),
        "stage2_conv2": (3, 3, 6, 6),
        "stage2_conv3": (3, 3, 6, 6),
    }


def test_plain_stages_may_pool_before_they_normalise():
    model = cnn((9, 12, 2), filters=(4, 6), depths=(2, 1), early_pools=1)
    late = cnn((9, 12, 2), filters=(4, 6), depths=(2, 1))
    names = [layer.name for layer in model.layers]
    assert names[4:] == [
        *("stage1_conv2", "stage1_pool", "stage1_norm2", "stage1_relu2"),
        *("stage2_conv1", "stage2_norm1", "stage2_relu1", "stage2_pool"),
        *("pool", "dropout", "logits"),
    ]
    assert model.get_layer("stage1_norm2").output.shape == (None, 4, 6, 4)
    # A positive scale changes no maximum, so that both orders agree in inference.
    late.set_weights(model.get_weights())
    images = np.random.default_rng(0).normal(size=(3, 9, 12, 2)).astype("float32")
    np.testing.assert_allclose(late.predict(images), model.predict(images), atol=1e-5)
    for layer in (model.get_layer("stage1_norm2"), late.get_layer("stage1_norm2")):
        layer.gamma.assign(-layer.gamma)
    assert not np.allclose(late.predict(images), model.predict(images), atol=1e-3)


@pytest.mark.parametrize("early_pools", [-1, True, 3, 1.5, "2"])
def test_plain_network_refuses_early_pools_it_has_no_stages_for(early_pools):
    with pytest.raises(ValueError, match="early_pools="):
        cnn((8, 8, 1), filters=(4, 6), early_pools=early_pools)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_plain_network_may_be_as_deep_as_the_image_can_be_halved(depth):
    filters = (2,) * depth
    model = cnn((2**depth, 2**depth, 1), filters=filters)
    assert model.output_shape == (None, 10)
    with pytest.raises(ValueError, match=f"at least {2**depth}"):
        cnn((2**depth - 1, 2**depth, 1), filters=filters)


# LeNet-5


def sequential_lenet(model, tail):
    """Compute LeNet-5 in NumPy, from the paper's description and a model's weights."""

    def convolve(x, kernel, bias):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (1, 2))
        return np.tanh(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias)

    def average(x):
        n, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2]
        return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))

    def run(x):
        weights = weights_of(model)
        x = average(convolve(x, *weights["stage1_conv"]))
        x = average(convolve(x, *tail)).reshape(len(x), -1)
        for name in ("dense1", "dense2"):
            kernel, bias = weights[name]
            x = np.tanh(x @ kernel + bias)
        kernel, bias = weights["logits"]
        return x @ kernel + bias

    return run


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (16, 19)])
def test_lenet_equals_numpy(size):
    model = lenet5((*size, 1), optimizer=None)
    x = images(3, *size, 1)
    expected = sequential_lenet(model, weights_of(model)["stage2_conv"])(x)
    np.testing.assert_allclose(forward(model)(x), expected, **TORCH_CLOSE)


def test_partial_connections_are_a_convolution_with_zeros():
    model = lenet5(partial=True, optimizer=None)
    kernel, bias = np.zeros((5, 5, 6, 16), "float32"), np.zeros(16, "float32")
    weights = weights_of(model)
    for i, seen in enumerate(CONNECTIONS):
        single, offset = weights[f"stage2_conv_map{i + 1}"]
        kernel[:, :, list(seen), i] = single[..., 0]
        bias[i] = offset[0]
    x = images(3, 32, 32, 1)
    expected = sequential_lenet(model, [kernel, bias])(x)
    np.testing.assert_allclose(forward(model)(x), expected, **TORCH_CLOSE)


def test_partial_connections_are_those_of_the_table():
    assert [len(seen) for seen in CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert len(set(CONNECTIONS)) == 16
    # Every row of the table has ten crosses.
    assert np.bincount(np.concatenate(CONNECTIONS)).tolist() == [10] * 6


def test_partial_connections_train_and_are_saved(tmp_path):
    model = lenet5((16, 16, 1), 2, partial=True)
    # TensorFlow takes many times longer to trace a step than to run it.
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    x = images(4, 16, 16, 1)
    assert np.isfinite(model.train_on_batch(x, np.arange(4) % 2)[0])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(forward(again)(x), forward(model)(x))


# AlexNet


@pytest.mark.parametrize("size", [(224, 224), (64, 131)])
def test_alexnet_equals_torchvision(size):
    models, torch = torchvision().models, pytest.importorskip("torch")
    reference = models.alexnet(num_classes=10)
    reference.classifier = torch_dense(256 * 6 * 6, 32, 24, 10)  # to be quick
    for parameter in reference.parameters():  # so that the image matters
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    model = alexnet((*size, 3), 10, hidden_units=(32, 24), optimizer=None)
    load_torch_weights(model, reference.state_dict())
    x = images(2, *size, 3)
    expected = torch_forward(reference, x)
    assert np.abs(expected - expected[:1]).max() > 1e-2
    np.testing.assert_allclose(forward(model)(x), expected, **TORCH_CLOSE)


def test_two_towers_meet_in_the_third_convolution_only():
    nn = pytest.importorskip("torch").nn
    torch_pool = [nn.ReLU(), nn.MaxPool2d(3, 2)]
    reference = nn.Sequential()
    reference.features = nn.Sequential(
        nn.Conv2d(3, 96, 11, 4, 2),
        *torch_pool,
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        *torch_pool,
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        *torch_pool,
    )
    reference.pool = nn.AdaptiveAvgPool2d(6)
    reference.flatten = nn.Flatten()
    reference.classifier = torch_dense(256 * 6 * 6, 16, 10)
    model = alexnet(
        (67, 67, 3), 10, variant="two_towers", hidden_units=(16,), learning_rate=1e-4
    )
    load_torch_weights(model, reference.state_dict())
    x = images(2, 67, 67, 3)
    expected = torch_forward(reference, x)
    np.testing.assert_allclose(forward(model)(x), expected, **TORCH_CLOSE)
    assert np.isfinite(model.train_on_batch(x, np.array([0, 1]))[0])


def test_hidden_layers_see_a_grid_however_large_the_image():
    small, large = (
        cnn((side, side, 1), filters=(4, 6), hidden_units=(5,)) for side in (16, 80)
    )
    assert small.count_params() == large.count_params()
    assert small.get_layer("flatten").output.shape == (None, 4 * 4 * 6)
    tiny = cnn((8, 12, 1), filters=(4, 6), hidden_units=(5,))
    assert tiny.get_layer("flatten").output.shape == (None, 2 * 2 * 6)
