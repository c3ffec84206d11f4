"""Heatmaps, against formulas in NumPy and against where the object is."""

import keras
import numpy as np
import pytest
from cases import CASES
from keras import layers
from PIL import Image

import kerasdl
from kerasdl import heatmaps
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.predict import Classifier

SIZE, OBJECT = 24, 7
IMAGE_CASES = [case for case in CASES if len(getattr(case.inputs, "shape", ())) == 3]


def predictor_of(model):
    units = model.output_shape[-1]
    names = [f"class {i}" for i in range(max(units, 2))]
    return Classifier(model, ArrayEncoder("image", model.input_shape[1:]), names)


def images(count, shape, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, *shape)).astype("float32")


def striped_squares(count, seed=0):
    """Noise with a striped square somewhere; upright stripes are class 1."""
    random = np.random.default_rng(seed)
    pictures = random.normal(0, 0.3, (count, SIZE, SIZE, 1)).astype("float32")
    labels = random.integers(0, 2, count)
    inside = np.zeros((count, SIZE, SIZE), bool)
    stripes = np.tile(np.arange(OBJECT) % 2 * 2.0 - 1, (OBJECT, 1))
    for i, (top, left) in enumerate(random.integers(0, SIZE - OBJECT, (count, 2))):
        box = np.s_[i, top : top + OBJECT, left : left + OBJECT]
        pictures[box][..., 0] += stripes if labels[i] else stripes.T
        inside[box] = True
    return pictures, labels, inside


def share_inside(heats, inside):
    """Return which part of all heat lies in the object, image by image."""
    return (heats * inside).sum((1, 2)) / heats.sum((1, 2))


def test_grad_cam_lights_up_the_object():
    model = kerasdl.cnn((SIZE, SIZE, 1), 2, filters=(8, 16), learning_rate=0.01)
    pictures, labels, _ = striped_squares(512)
    model.fit(pictures, labels, batch_size=32, epochs=5, verbose=0)
    predictor = predictor_of(model)
    pictures, labels, inside = striped_squares(64, seed=1)
    assert (predictor.outputs(pictures).argmax(1) == labels).mean() > 0.95
    shares = share_inside(heatmaps.grad_cam(predictor, pictures), inside)
    assert inside.mean() < 0.1
    assert np.median(shares) > 0.5
    assert (shares > 0.3).mean() > 0.9


@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case.builder)
def test_every_image_builder_has_heatmaps(case):
    predictor = predictor_of(case.build())
    batch = case.batch(count=3)
    for draw in (heatmaps.heatmaps, heatmaps.grad_cam):
        heats = draw(predictor, batch)
        assert heats.shape == batch.shape[:3]
        assert heats.dtype == np.float32
        assert np.isfinite(heats).all()
        assert heats.min() >= 0
        assert {float(top) for top in heats.max((1, 2))} <= {0.0, 1.0}
        assert heats.max() == 1


def averaged(units=3, *, pool=layers.GlobalAveragePooling2D):
    """Return a network whose Grad-CAM has a closed form: class activation maps."""
    image = keras.Input((6, 5, 2), name="image")
    maps = layers.Conv2D(4, 3, padding="same", activation="relu", name="maps")(image)
    return keras.Model(image, layers.Dense(units, name="logits")(pool()(maps)))


def activation_maps(model, batch, labels, sign=1):
    """Compute the maps as Zhou et al. 2016 do: by the weights of the last layer."""
    maps = keras.Model(model.inputs[0], model.get_layer("maps").output)
    maps = keras.ops.convert_to_numpy(maps(batch))
    weights = keras.ops.convert_to_numpy(model.get_layer("logits").kernel)
    heats = (maps * weights.T[labels][:, None, None] * sign).sum(-1).clip(0)
    return heats / np.maximum(heats.max((1, 2), keepdims=True), 1e-30)


def test_grad_cam_of_averaged_maps_is_their_weighted_sum():
    model, batch = averaged(), images(20, (6, 5, 2))
    predictor = predictor_of(model)
    labels = np.arange(20) % 3
    drawn = heatmaps.grad_cam(predictor, batch, labels)
    np.testing.assert_allclose(drawn, activation_maps(model, batch, labels), atol=1e-5)
    predicted = predictor.outputs(batch).argmax(1)
    np.testing.assert_array_equal(
        heatmaps.grad_cam(predictor, batch),
        heatmaps.grad_cam(predictor, batch, predicted),
    )


def test_one_logit_explains_either_class():
    model, batch = averaged(1), images(8, (6, 5, 2))
    predictor = predictor_of(model)
    labels = np.zeros(8, int)
    for label, sign in ((0, -1), (1, 1)):
        drawn = heatmaps.grad_cam(predictor, batch, labels + label)
        wanted = activation_maps(model, batch, labels, sign)
        np.testing.assert_allclose(drawn, wanted, atol=1e-5)
    predicted = predictor.answers(batch).argmax(1)
    np.testing.assert_array_equal(
        heatmaps.grad_cam(predictor, batch),
        heatmaps.grad_cam(predictor, batch, predicted),
    )


def test_pooling_leaves_the_finer_maps():
    def pool():
        return lambda maps: layers.Flatten()(layers.MaxPooling2D(2)(maps))

    predictor = predictor_of(averaged(pool=pool))
    # Of 3 rows and 2 columns, enlarged, neighbours would differ by no more than a step.
    heats = heatmaps.grad_cam(predictor, images(4, (6, 5, 2)))
    assert np.abs(np.diff(heats, axis=1)).max() > 0.7


@pytest.mark.parametrize("pooled", [True, False])
def test_a_nested_backbone_is_looked_into(pooled):
    flat = averaged()
    end = "global_average_pooling2d" if pooled else "maps"
    pool = next(layer for layer in flat.layers if "pool" in layer.name)
    features = pool.output if pooled else flat.get_layer("maps").output
    backbone = keras.Model(flat.inputs[0], features, name=end)
    backbone.trainable = False
    image = keras.Input((6, 5, 2), name="image")
    x = backbone(image, training=False)
    x = keras.Sequential([layers.Identity()])(x)
    if not pooled:
        x = layers.GlobalAveragePooling2D()(x)
    nested = keras.Model({"image": image}, flat.get_layer("logits")(x))
    batch = images(5, (6, 5, 2))
    np.testing.assert_allclose(
        heatmaps.grad_cam(predictor_of(nested), batch, np.ones(5, int)),
        activation_maps(flat, batch, np.ones(5, int)),
        atol=1e-5,
    )


def test_the_model_stays_as_it_is():
    model = kerasdl.cnn((8, 8, 3), 4, filters=(4,), dropout=0.5)
    before, config = model.get_weights(), model.get_config()
    heatmaps.grad_cam(predictor_of(model), images(3, (8, 8, 3)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_config() == config
    model.fit(images(4, (8, 8, 3)), np.arange(4), verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_new_weights_are_seen():
    model, batch = averaged(), images(3, (6, 5, 2))
    predictor, labels = predictor_of(model), np.zeros(3, int)
    heatmaps.grad_cam(predictor, batch, labels)
    model.set_weights([weight + 0.3 for weight in model.get_weights()])
    np.testing.assert_allclose(
        heatmaps.grad_cam(predictor, batch, labels),
        activation_maps(model, batch, labels),
        atol=1e-5,
    )


def test_mixed_precision_draws_nearly_the_same():
    full = averaged()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = averaged()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(full.get_weights())
    batch, labels = images(3, (6, 5, 2)), np.zeros(3, int)
    np.testing.assert_allclose(
        heatmaps.grad_cam(predictor_of(mixed), batch, labels),
        heatmaps.grad_cam(predictor_of(full), batch, labels),
        atol=0.05,
    )


def tiny_vit(pooling):
    """Return a transformer of 3 blocks whose patches are pixels, sharply attentive."""
    model = kerasdl.vit(
        (4, 5, 3),
        2,
        variant="vit_ti16",
        patch_size=1,
        width=8,
        depth=3,
        num_heads=2,
        pooling=pooling,
        optimizer=None,
    )
    random = np.random.default_rng(0)
    model.set_weights(
        [weight + random.normal(0, 0.7, weight.shape) for weight in model.get_weights()]
    )
    return model


def rolled_out(model, batch, pooling):
    """Compute the rollout from weights and the inputs of the attention, in NumPy."""
    names = [f"block{i}_attention_norm" for i in (1, 2, 3)]
    names += ["pool_score"] if pooling == "sequence" else []
    outputs = [model.get_layer(name).output for name in names]
    read = [
        keras.ops.convert_to_numpy(x)
        for x in keras.Model(model.inputs[0], outputs)(batch)
    ]
    tokens = read[0].shape[1]
    rollout = np.tile(np.eye(tokens), (len(batch), 1, 1))
    for i, x in enumerate(read[:3], start=1):
        kernel, bias = model.get_layer(f"block{i}_attention").get_weights()[:2]
        query, key, _ = np.split(x @ kernel + bias, 3, axis=-1)
        mean = 0
        for head in (np.s_[..., :4], np.s_[..., 4:]):
            odds = np.exp(query[head] @ key[head].transpose(0, 2, 1) / 2)
            mean = mean + odds / odds.sum(-1, keepdims=True) / 2
        rollout = (mean + np.eye(tokens)) / 2 @ rollout
    np.testing.assert_allclose(rollout.sum(-1), 1, atol=1e-6)
    if pooling == "token":
        return rollout[:, 0, 1:]
    if pooling == "mean":
        return rollout.mean(1)
    odds = np.exp(read[3])
    return (odds / odds.sum(1, keepdims=True) * rollout).sum(1)


@pytest.mark.parametrize("pooling", ["token", "mean", "sequence"])
def test_rollout_is_the_product_of_the_blocks_attention(pooling):
    model, batch = tiny_vit(pooling), images(3, (4, 5, 3))
    wanted = rolled_out(model, batch, pooling).reshape(3, 4, 5)
    least, most = wanted.min((1, 2)), wanted.max((1, 2))
    assert ((most - least) > 0.01).all()
    wanted = ((wanted.T - least) / (most - least)).T
    predictor = predictor_of(model)
    drawn = heatmaps.attention_rollout(predictor, batch)
    np.testing.assert_allclose(drawn, wanted, atol=1e-4)
    np.testing.assert_array_equal(heatmaps.heatmaps(predictor, batch), drawn)


def test_rollout_looks_into_a_nested_backbone():
    backbone = tiny_vit("token")
    image = keras.Input((4, 5, 3), name="image")
    nested = keras.Model(image, layers.Dense(2)(backbone(image)))
    batch = images(3, (4, 5, 3))
    np.testing.assert_allclose(
        heatmaps.heatmaps(predictor_of(nested), batch),
        heatmaps.attention_rollout(predictor_of(backbone), batch),
        atol=1e-5,
    )


def test_no_images_have_no_heatmaps():
    assert heatmaps.grad_cam(
        predictor_of(averaged()), np.zeros((0, 6, 5, 2))
    ).shape == (0, 6, 5)


def test_a_model_without_maps_is_refused():
    model = kerasdl.mlp((6,), num_classes=2)
    predictor = Classifier(model, ArrayEncoder("features", (6,)), ("a", "b"))
    with pytest.raises(ValueError, match="'mlp' has neither feature maps nor"):
        heatmaps.heatmaps(predictor, images(2, (6,)))
    with pytest.raises(ValueError, match="no attention over patches"):
        heatmaps.attention_rollout(predictor_of(averaged()), images(2, (6, 5, 2)))


@pytest.mark.parametrize("labels", [[0, 3], [0, -1], [0], [0, 0.5], [[0, 1]]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="from 0 to 2 for each of 2 images"):
        heatmaps.grad_cam(predictor_of(averaged()), images(2, (6, 5, 2)), labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_is_lightest_where_the_heat_is(channels):
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 1
    picture = heatmaps.overlay(np.full((28, 30, channels), 128, np.uint8), heat)
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("RGB", (240, 224))
    lightness = np.asarray(picture.convert("L"))
    row, column = np.unravel_index(lightness.argmax(), lightness.shape)
    assert 32 <= row < 64
    assert 171 <= column < 206
    large = heatmaps.overlay(np.zeros((300, 400, channels), np.uint8), heat)
    assert large.size == (400, 300)


def test_overlay_shows_the_image_beneath():
    image = np.zeros((240, 240, 3), np.uint8)
    image[:, 120:] = 255
    lightness = np.asarray(heatmaps.overlay(image, np.zeros((1, 1))).convert("L"))
    assert lightness[:, 120:].min() > lightness[:, :120].max() + 100
