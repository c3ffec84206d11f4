"""Weights from PyTorch: found by name, transposed, or refused before any change."""

import keras
import numpy as np
import pytest
from cifar_resnet import published as cifar_weights
from keras import layers

import kerasdl
from kerasdl import torch_weights
from kerasdl.backend import forward

RANDOM = np.random.default_rng(0)


def array(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def published(width=2):
    return cifar_weights(width)


@pytest.fixture
def model():
    return kerasdl.resnet((8, 8, 3), 10, variant="resnet20", width=2, optimizer=None)


def values(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


def test_every_array_reaches_its_weight(model):
    state = published()
    kerasdl.load_torch_weights(model, state)
    found = values(model)
    for path, name in {
        "stem_norm/moving_variance": "bn1.running_var",
        "stage1_unit1_norm1/gamma": "layer1.0.bn1.weight",
        "stage2_unit3_norm2/moving_mean": "layer2.2.bn2.running_mean",
        "logits/bias": "linear.bias",
    }.items():
        np.testing.assert_array_equal(found[path], state[name])
    np.testing.assert_array_equal(
        found["stage3_unit1_conv1/kernel"],
        np.einsum("oihw->hwio", state["layer3.0.conv1.weight"]),
    )
    np.testing.assert_array_equal(found["logits/kernel"], state["linear.weight"].T)


def wrapped(state):
    return {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}


def named_fc(state):
    return {name.replace("linear", "fc"): value for name, value in state.items()}


def as_tensors(state):
    torch = pytest.importorskip("torch")
    return {k: torch.nn.Parameter(torch.tensor(v).float()) for k, v in state.items()}


@pytest.mark.parametrize(
    "change", [wrapped, named_fc, as_tensors, lambda state: {"model": state}]
)
def test_wrappings_make_no_difference(model, change):
    state = published()
    kerasdl.load_torch_weights(model, state)
    expected = values(model)
    model.set_weights([0 * weight for weight in model.get_weights()])
    kerasdl.load_torch_weights(model, change(state))
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, expected[path])


def test_projections_go_by_both_of_their_names():
    model = kerasdl.resnet(
        (8, 8, 3), 10, variant="resnet20", width=2, shortcut="projection"
    )
    for name in ("downsample", "shortcut"):
        state = published()
        for stage, width in ((2, 4), (3, 8)):
            state[f"layer{stage}.0.{name}.0.weight"] = array(width, width // 2, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"layer{stage}.0.{name}.1.{part}"] = array(width)
        kerasdl.load_torch_weights(model, state)
        np.testing.assert_array_equal(
            values(model)["stage3_unit1_shortcut_norm/beta"],
            state[f"layer3.0.{name}.1.bias"],
        )


def test_bfloat16_tensors_load(model):
    torch = pytest.importorskip("torch")
    state = {name: value.bfloat16() for name, value in as_tensors(published()).items()}
    kerasdl.load_torch_weights(model, state)
    expected = state["linear.bias"].detach().to(torch.float32).numpy()
    np.testing.assert_array_equal(values(model)["logits/bias"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer2.1.conv2.weight": None, "linear.bias": None},
            "nothing for the model's weight 'stage2_unit2_conv2/kernel'",
        ),
        ({"layer1.9.conv1.weight": array(2, 2, 3, 3)}, "'layer1.9.conv1.weight'"),
        ({"conv9.weight": array(2, 2, 3, 3)}, "no weight for 'conv9.weight'"),
        ({"conv1.bias": array(2)}, "no weight for 'conv1.bias'"),
        (
            {"layer1.0.conv1.weight": array(2, 2, 1, 1)},
            r"'layer1.0.conv1.weight' \(2, 2, 1, 1\) does not fit .*\(3, 3, 2, 2\)",
        ),
        ({"linear.bias": array(9)}, r"\(9,\) does not fit 'logits/bias' \(10,\)"),
        ({"linear.bias": np.array(1.0)}, r"\(\) does not fit 'logits/bias' \(10,\)"),
        ({"fc.bias": array(10)}, "'fc.bias' is a second 'logits/bias'"),
    ],
)
def test_the_first_mismatch_is_named_and_nothing_changed(model, change, message):
    state = {k: v for k, v in {**published(), **change}.items() if v is not None}
    before = values(model)
    with pytest.raises(ValueError, match=message):
        kerasdl.load_torch_weights(model, state)
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x.weight": array(1)}, "'x.weight' and the layers of 'resnet' are of none"),
        ({}, "is a dict; expected arrays by name"),
        ({"net": {"conv1.weight": 1}}, "'net' is a dict; expected an array"),
        ({"conv1.weight": "x"}, "'conv1.weight' is a str; expected an array"),
        ({1: array(1)}, "'1' and the layers of 'resnet' are of none"),
        ({"bn1.num_batches_tracked": array(1)}, "of none of the families"),
        ({"state_dict": [1]}, "is a list"),
    ],
)
def test_other_things_are_refused(model, state, message):
    with pytest.raises(ValueError, match=message):
        kerasdl.load_torch_weights(model, state)


def test_another_depth_is_refused(model):
    deeper = kerasdl.resnet((8, 8, 3), 10, variant="resnet32", width=2)
    with pytest.raises(ValueError, match=r"nothing for .*'stage1_unit4_conv1/kernel'"):
        kerasdl.load_torch_weights(deeper, published())
    with pytest.raises(ValueError, match=r"'conv1.weight' .* does not fit"):
        kerasdl.load_torch_weights(model, published(width=3))


def test_flattened_images_and_layers_in_order(monkeypatch):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding="same"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding="same", groups=4),
        torch.nn.Flatten(),
        torch.nn.Dropout(),
        torch.nn.Linear(4 * 5 * 6, 7),
        torch.nn.Linear(7, 2),
    ).eval()
    image = keras.Input((5, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_a")(image)
    x = layers.DepthwiseConv2D(3, padding="same", name="conv_b")(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    x = layers.Dense(2, name="dense_b")(layers.Dense(7, name="dense_a")(x))
    model = keras.Model(image, x)
    rules = {r"[02]": torch_weights.InOrder("conv_."), r"5": "dense_a", r"6": "dense_b"}
    monkeypatch.setitem(torch_weights.RULES, "test", rules)
    kerasdl.load_torch_weights(model, module.state_dict())
    images = array(2, 5, 6, 3)
    with torch.no_grad():
        expected = module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(forward(model)(images), expected, atol=1e-5, rtol=0)
