"""GoogLeNet against its definition in PyTorch, and its auxiliary heads."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import log_softmax

from kerasdl import inception, load
from kerasdl.backend import forward
from kerasdl.bundle import save_bundle
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.predict import Classifier

UNITS = [
    f"stage{stage}_unit{unit}"
    for stage, count in ((3, 2), (4, 5), (5, 2))
    for unit in range(1, count + 1)
]
HEADS = {"stage4_unit1": "aux1", "stage4_unit4": "aux2"}
LABELS = np.array([0, 2, 1])


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Reference:
    """The paper's table 1 in PyTorch, with the weights of a model."""

    def __init__(self, model):
        self.torch = pytest.importorskip("torch")
        self.f = self.torch.nn.functional
        self.model = model

    def weights(self, name):
        kernel, bias = (
            self.torch.from_numpy(np.array(ops.convert_to_numpy(weight)))
            for weight in self.model.get_layer(name).weights
        )
        return (kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T), bias

    def conv(self, x, name, stride=1):
        kernel, bias = self.weights(name)
        return self.f.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2).relu()

    def halve(self, x):
        return self.f.max_pool2d(x, 3, 2, ceil_mode=True)

    def module(self, x, name):
        branches = [
            self.conv(x, f"{name}_conv1x1"),
            self.conv(self.conv(x, f"{name}_reduce3x3"), f"{name}_conv3x3"),
            self.conv(self.conv(x, f"{name}_reduce5x5"), f"{name}_conv5x5"),
            self.conv(self.f.max_pool2d(x, 3, 1, 1), f"{name}_project"),
        ]
        return self.torch.cat(branches, 1)

    def auxiliary(self, x, name):
        x = self.conv(self.f.adaptive_avg_pool2d(x, 4), f"{name}_conv")
        x = x.permute(0, 2, 3, 1).flatten(1)  # Keras flattens channels last
        x = self.f.linear(x, *self.weights(f"{name}_dense")).relu()
        return self.f.linear(x, *self.weights(f"{name}_logits"))

    def __call__(self, x, *, heads=False):
        """Return the outputs by name."""
        outputs = {}
        with self.torch.no_grad():
            x = self.torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
            x = self.halve(self.conv(x, "stem_conv1", 2))
            x = self.halve(self.conv(self.conv(x, "stem_reduce2"), "stem_conv2"))
            for unit in UNITS:
                x = self.halve(x) if unit in (UNITS[2], UNITS[7]) else x
                x = self.module(x, unit)
                if heads and unit in HEADS:
                    outputs[HEADS[unit]] = self.auxiliary(x, HEADS[unit]).numpy()
            x = self.f.linear(x.mean((2, 3)), *self.weights("logits"))
        return {"logits": x.numpy(), **outputs}


@pytest.mark.parametrize("size", [(64, 85)])
def test_googlenet_equals_its_definition(size):
    model = inception((*size, 2), 3, optimizer=None)
    x = images(2, *size, 2)
    expected = Reference(model)(x)["logits"]
    assert np.abs(expected - expected[:1]).max() > 1e-2  # the image matters
    np.testing.assert_allclose(forward(model)(x), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [*range(27, 36), 63, 224])
def test_pooling_rounds_up(size):
    with keras.StatelessScope(initialize_variables=False):
        model = inception((size, size, 1), 3, optimizer=None)
    expected = -(-size // 2)
    for name in ("stem_pool1", "stem_pool2", "stage3_pool", "stage4_pool"):
        expected = max(-(-(expected - 3) // 2) + 1, 1)
        assert model.get_layer(name).output.shape[1:3] == (expected, expected)


def test_any_image_fits():
    model = inception((1, 3, 5), 3, optimizer=None)
    assert np.isfinite(forward(model)(images(2, 1, 3, 5))).all()


@pytest.fixture(scope="module")
def headed():
    return inception(
        (64, 64, 2), 3, aux_heads=True, dropout=0.0, aux_dropout=0.0, learning_rate=1e-5
    )


def test_heads_hang_on_4a_and_4d(headed):
    x = images(3, 64, 64, 2)
    shapes = {name: output.shape for name, output in headed.output.items()}
    assert shapes == dict.fromkeys(("logits", "aux1", "aux2"), (None, 3))
    found = headed.predict(x, verbose=0)
    for name, expected in Reference(headed)(x, heads=True).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-4, rtol=0)
        assert found[name].dtype == np.float32


def test_weights_move_to_the_main_tower_by_layer_name(headed):
    main = inception((64, 64, 2), 3, optimizer=None)
    assert not [layer for layer in main.layers if "aux" in layer.name]
    for layer in main.layers:
        layer.set_weights(headed.get_layer(layer.name).get_weights())
    x = images(3, 64, 64, 2)
    expected = headed.predict(x, verbose=0)["logits"]
    np.testing.assert_allclose(forward(main)(x), expected, atol=1e-5, rtol=0)
    paths = {weight.path for weight in headed.weights}
    assert {weight.path for weight in main.weights} <= paths
    part = keras.Model(headed.input, headed.output["logits"])
    assert part.count_params() == main.count_params()
    np.testing.assert_allclose(forward(part)(x), expected, atol=1e-5, rtol=0)


def test_heads_count_a_third_in_training_and_not_in_evaluation(headed):
    x = images(3, 64, 64, 2)
    losses = {
        name: -log_softmax(logits, axis=1)[np.arange(3), LABELS].mean()
        for name, logits in headed.predict(x, verbose=0).items()
    }
    # TensorFlow takes many times longer to trace a step than to run it.
    headed.run_eagerly = keras.backend.backend() == "tensorflow"
    evaluated = headed.evaluate(x, LABELS, verbose=0, return_dict=True)
    assert set(evaluated) == {"loss", "accuracy"}
    assert evaluated["loss"] == pytest.approx(losses["logits"], rel=1e-4)
    before = headed.get_layer("aux1_dense").get_weights()[0]
    found = headed.train_on_batch(x, LABELS, return_dict=True)["loss"]
    total = losses["logits"] + 0.3 * (losses["aux1"] + losses["aux2"])
    assert found == pytest.approx(total, rel=1e-4)
    assert (headed.get_layer("aux1_dense").get_weights()[0] != before).any()


def test_a_bundle_holds_the_main_tower(tmp_path):
    arguments = {"input_shape": (16, 16, 2), "num_classes": 2, "aux_heads": True}
    model = inception(**arguments)
    encoder = ArrayEncoder("image", (16, 16, 2))
    predictor = Classifier(model, encoder, ("a", "b"))
    folder = save_bundle(
        tmp_path / "bundle",
        predictor,
        builder="inception",
        arguments=arguments,
        metrics={},
        card="",
        keras_copy=False,
    )
    again, x = load(folder), images(2, 16, 16, 2)
    assert not any(layer.name.startswith("aux") for layer in again.model.layers)
    np.testing.assert_allclose(again.answers(x), predictor.answers(x), atol=1e-6)


@pytest.mark.slow
def test_heads_survive_a_keras_file(headed, tmp_path):
    # Keras warns of a compiled model saved before its first step.
    headed.optimizer.build(headed.trainable_variables)
    headed.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is type(headed)
    x = images(3, 64, 64, 2)
    expected = headed.predict(x, verbose=0)
    for name, logits in again.predict(x, verbose=0).items():
        np.testing.assert_array_equal(logits, expected[name])
