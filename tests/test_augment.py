"""Augmentation against PIL, torchvision and NumPy, and models that augment."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image
from references import torchvision

from kerasdl import augment, backend
from kerasdl.augment import POLICIES, augmented, augmented_batch
from kerasdl.data.images import ImageEncoder
from kerasdl.layers import (
    ColorJitter,
    MixImages,
    RandAugment,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
    TrivialAugmentWide,
    pixels,
    trivial,
)
from kerasdl.tasks import AuxiliaryModel, compile_classifier

IMAGE_LAYERS = (
    *(ColorJitter, RandAugment, RandomErasing, RandomFlip, RandomResizedCrop),
    *(RandomRotation, RandomShift, TrivialAugmentWide),
)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def jitted(function):
    """Compile a function on JAX, where one operation after another takes long."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def trained(layer, *inputs):
    """Return what a layer gives in training."""
    if keras.backend.backend() != "jax":
        return layer(*inputs, training=True)
    state = layer.non_trainable_variables
    call = jitted(partial(layer.stateless_call, training=True))
    outputs, after = call([], [variable.value for variable in state], *inputs)
    for variable, value in zip(state, after, strict=True):
        variable.assign(value)
    return outputs


def picture(size=(33, 40), channels=3, seed=0):
    """Draw a uint8 image with edges, gradients, noise and less than full contrast."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = 60 * np.sin(rows / 5)[..., None] + 50 * (columns > size[1] / 3)[..., None]
    tints = random.uniform(0.6, 1, channels)
    noise = random.uniform(-20, 20, (*size, channels))
    return np.clip(110 + waves * tints + noise, 12, 243).astype("uint8")


def batch(count, size=(16, 16), channels=3):
    images = [picture(size, channels, seed) for seed in range(count)]
    return np.stack(images).astype("float32")


def to_pil(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(image, shape):
    return np.asarray(image).reshape(shape).astype("float32")


STRENGTHS = {
    **dict.fromkeys(("ShearX", "ShearY"), (-0.7, 0.31)),
    **dict.fromkeys(("TranslateX", "TranslateY"), (-7.0, 3.0, 32.0)),
    "Rotate": (-117.0, 31.5),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (-0.9, 0.77)),
    "Posterize": (2.0, 5.0, 8.0),
    "Solarize": (0.0, 127.5, 150.0),
    **dict.fromkeys(("Identity", "AutoContrast", "Equalize"), (0.0,)),
}


def changed(image, cases):
    """Apply operations, each with its strength, to one uint8 image in one batch."""
    names, strengths = zip(*cases, strict=True)
    operations = np.array([trivial.OPERATIONS.index(name) for name in names], "int32")
    images = np.repeat(image[None].astype("float32"), len(cases), axis=0)
    strengths = np.array(strengths, "float32")
    images = ops.convert_to_tensor(images)
    return numpy(jitted(trivial.change)(images, operations, strengths))


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_are_those_of_torchvision_on_pil(channels):
    torchvision()
    from torchvision.transforms import InterpolationMode, autoaugment

    image = picture(channels=channels)
    cases = [(name, strength) for name in STRENGTHS for strength in STRENGTHS[name]]
    for (name, strength), found in zip(cases, changed(image, cases), strict=True):
        expected = autoaugment._apply_op(
            to_pil(image), name, strength, InterpolationMode.NEAREST, None
        )
        error = abs(found - from_pil(expected, image.shape))
        # PIL rounds what it blends with (half a level) and cuts off what it returns
        # (one more). An angle that is rounded otherwise moves a few pixels.
        assert (error > 1.5).mean() <= (0.005 if name == "Rotate" else 0), name
        unchanged = name == "Identity" or (name, channels) == ("Color", 1)
        unchanged |= (name, strength) == ("Posterize", 8.0)
        assert (found == image).all() == unchanged, (name, strength)


def test_a_plain_image_is_not_stretched():
    image = np.full((5, 4, 3), 77, "uint8")
    for found in changed(image, [("AutoContrast", 0.0), ("Equalize", 0.0)]):
        np.testing.assert_array_equal(found, image)


def test_the_strengths_are_those_of_torchvision():
    torchvision()
    from torchvision.transforms import autoaugment

    spaces = (
        (TrivialAugmentWide(), autoaugment.TrivialAugmentWide(), ()),
        (RandAugment(), autoaugment.RandAugment(), ((24, 40),)),
    )
    for ours, theirs, size in spaces:
        space = theirs._augmentation_space(31, *size)
        assert tuple(space) == trivial.OPERATIONS
        for found, (name, (strengths, signed)) in zip(
            ours.strengths(24, 40), space.items(), strict=True
        ):
            expected = np.broadcast_to(strengths.numpy(), 31)
            if name.startswith("Translate"):
                # As torchvision does when it translates, but that 15.999… counts as 16.
                expected = np.trunc(expected + 1e-4)
            np.testing.assert_allclose(found, expected, atol=1e-4)
            assert signed == (trivial.OPERATIONS.index(name) in trivial.SIGNED)


@pytest.fixture
def drawn(monkeypatch):
    """Collect what was to be changed in place of changing it."""
    seen = []

    def collect(images, operation, strength):
        seen.append((numpy(operation), numpy(strength)))
        return images

    monkeypatch.setattr(trivial, "change", collect)
    return seen


def test_trivial_augment_draws_operations_strengths_and_signs_evenly(drawn):
    layer = TrivialAugmentWide(seed=1)
    layer(np.zeros((42_000, 1, 1, 1), "float32"), training=True)
    ((operation, strength),) = drawn
    counts = np.bincount(operation, minlength=14)
    # 3,000 expected of each: four standard deviations are 211.
    assert abs(counts - 3000).max() < 211
    for index, space in enumerate(layer.strengths(1, 1)):
        mine = strength[operation == index]
        allowed = np.unique(np.abs(space).astype("float32"))
        assert set(np.unique(np.abs(mine))) == set(allowed)
        if index in trivial.SIGNED:
            assert (mine < 0).mean() == pytest.approx(0.48, abs=0.05)
    rotation = abs(strength[operation == trivial.OPERATIONS.index("Rotate")])
    counts = np.bincount(np.rint(rotation / 4.5).astype(int), minlength=31)
    # 97 expected of each: five standard deviations are 48.
    assert abs(counts - 97).max() < 48


def test_rand_augment_draws_several_operations_of_one_strength(drawn):
    layer = RandAugment(count=3, magnitude=10, seed=1)
    layer(np.zeros((1400, 1, 1, 1), "float32"), training=True)
    assert len(drawn) == 3
    for operation, strength in drawn:
        assert np.bincount(operation, minlength=14).min() > 60
        np.testing.assert_allclose(
            abs(strength), layer.strengths(1, 1)[operation, 10], rtol=1e-5
        )
    assert (drawn[0][0] != drawn[1][0]).any()


@pytest.mark.parametrize("layer_class", IMAGE_LAYERS)
@pytest.mark.parametrize("channels", [1, 4])
def test_layers_change_each_image_by_itself_and_only_in_training(layer_class, channels):
    layer = layer_class(seed=5)
    image = picture((16, 12), channels).astype("float32")
    images = np.repeat(image[None], 24, axis=0)
    np.testing.assert_array_equal(numpy(layer(images)), images)
    np.testing.assert_array_equal(numpy(layer(images, training=False)), images)
    found = numpy(trained(layer, images))
    assert found.shape == images.shape
    assert found.dtype == "float32"
    assert found.min() >= 0
    assert found.max() <= 255
    different = {one.tobytes() for one in found}
    assert len(different) >= (2 if layer_class is RandomFlip else 5)
    again = numpy(trained(layer_class.from_config(layer.get_config()), images))
    np.testing.assert_array_equal(again, found)
    assert (numpy(trained(layer, images)) != found).any()


def test_flip_mirrors_half_of_the_images():
    images = np.repeat(batch(1, (5, 6)), 4000, axis=0)
    found = numpy(trained(RandomFlip(seed=0), images))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((found == images).all(axis=(1, 2, 3)) != mirrored).all()
    # Four standard deviations are 0.032.
    assert mirrored.mean() == pytest.approx(0.5, abs=0.032)


def test_shifts_are_even_and_leave_black():
    image = np.zeros((17, 16, 1), "float32")
    image[8, 8] = 255
    found = numpy(
        RandomShift(seed=0)(np.repeat(image[None], 5000, axis=0), training=True)
    )
    assert (found.sum(axis=(1, 2, 3)) == 255).all()
    _, rows, columns, _ = np.nonzero(found)
    counts = np.zeros((5, 5))
    np.add.at(counts, (rows - 6, columns - 6), 1)
    # 200 expected of each: five standard deviations are 69.
    assert abs(counts - 200).max() < 69
    ones = numpy(RandomShift(0.5, seed=0)(np.ones((50, 4, 4, 1)), training=True))
    assert set(np.unique(ones)) == {0.0, 1.0}


def test_resized_crop_is_that_of_torchvision():
    torchvision()
    import torch
    from torchvision.transforms import functional

    size = 20, 32
    places = np.stack(np.indices(size), axis=-1).astype("float32")
    images = np.concatenate([places, picture(size)], axis=-1)
    images = np.repeat(images[None], 40, axis=0).astype("float32")
    found = numpy(trained(RandomResizedCrop(seed=0), images))
    boxes = set()
    for image in found:
        # The corners of the crop, read off what started as the places of the pixels.
        (top, left), (bottom, right) = np.rint(image[[0, -1], [0, -1], :2]).astype(int)
        height, width = bottom - top + 1, right - left + 1
        boxes.add((top, left, height, width))
        assert 0.45 < height * width / 640 <= 1
        assert 0.7 < (width / 32) / (height / 20) < 1.43
        tensor = torch.from_numpy(images[0].transpose(2, 0, 1))
        expected = functional.resized_crop(
            tensor, top, left, height, width, size, antialias=False
        )
        np.testing.assert_allclose(
            image, expected.numpy().transpose(1, 2, 0), atol=0.01
        )
    assert len(boxes) > 30


def test_rotation_is_that_of_pil():
    image = picture((21, 30), 1)
    for degrees in (-40.0, 13.0):
        expected = to_pil(image).rotate(degrees, Image.Resampling.BILINEAR)
        images = ops.convert_to_tensor(image[None].astype("float32"))
        places = pixels.turned(images, np.array([degrees], "float32"))
        found = numpy(pixels.pick_between(images, *places))[0]
        error = abs(found - from_pil(expected, image.shape))
        inside = np.zeros(image.shape, bool)
        inside[6:-6, 9:-9] = True  # PIL fades no border pixels to black
        assert error[inside].max() <= 1.01


def test_color_jitter_is_that_of_pil():
    from PIL import ImageEnhance

    images = batch(6)
    layer = ColorJitter(0.4, seed=3)
    twin = ColorJitter(0.4, seed=3)
    factors = [numpy(twin.uniform(images, 0.6, 1.4)) for _ in range(3)]
    assert np.ptp(factors[0]) > 0.2
    found = numpy(trained(layer, images))
    enhancers = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
    for i, image in enumerate(images.astype("uint8")):
        expected = to_pil(image)
        for enhancer, factor in zip(enhancers, factors, strict=True):
            expected = enhancer(expected).enhance(factor[i])
        # PIL rounds after each of the three, and the last ones amplify that.
        assert abs(found[i] - from_pil(expected, image.shape)).max() < 4


def test_grey_in_colour_has_no_saturation_to_change():
    images = np.repeat(batch(2, channels=1), 3, axis=-1)
    grey = numpy(pixels.grey(ops.convert_to_tensor(images)))
    np.testing.assert_allclose(grey, images[..., :1], rtol=1e-5)


def test_erasing_paints_rectangles_of_the_asked_rate_and_size():
    images = np.repeat(batch(1, (20, 30)), 2000, axis=0)
    layer = RandomErasing(0.3, area=(0.1, 0.25), ratio=2.0, seed=0)
    found = numpy(trained(layer, images))
    lost = (found != images).any(axis=-1)
    erased = lost.any(axis=(1, 2))
    # Four standard deviations are 0.041.
    assert erased.mean() == pytest.approx(0.3, abs=0.041)
    mean = images[0].mean(axis=(0, 1))
    heights, widths = lost[erased].any(axis=2).sum(1), lost[erased].any(axis=1).sum(1)
    np.testing.assert_array_equal(lost[erased].sum(axis=(1, 2)), heights * widths)
    np.testing.assert_allclose(
        found[lost], np.broadcast_to(mean, found[lost].shape), rtol=1e-4
    )
    share = heights * widths / 600
    assert share.min() > 0.08
    assert share.max() < 0.28
    assert share.mean() == pytest.approx(0.175, abs=0.01)
    ratio = widths / heights
    assert ratio.min() < 0.6
    assert ratio.max() > 1.7
    # Wherever it is, each pixel is covered: the corners less often.
    assert lost[:, 0, 0].any()
    assert lost[:, -1, -1].any()


def mix(count, classes, **shares):
    """Mix images that are constant and one-hot labels; images are numbered from 0."""
    images = np.broadcast_to(
        np.arange(count, dtype="float32")[:, None, None, None], (count, 9, 7, 2)
    )
    labels = np.eye(classes, dtype="float32")[np.arange(count) % classes]
    layer = MixImages(**shares, seed=2)
    return tuple(numpy(x) for x in trained(layer, images, labels)), labels


def test_cutmix_gives_labels_the_share_of_the_pixels():
    count, classes = 500, 5
    (images, labels), given = mix(count, classes, mixup=0.0, cutmix=1.0)
    own = images == np.arange(count)[:, None, None, None]
    neighbour = images == np.roll(np.arange(count), 1)[:, None, None, None]
    assert (own != neighbour).all()
    share = own.mean(axis=(1, 2, 3))[:, None]
    expected = share * given + (1 - share) * np.roll(given, 1, axis=0)
    np.testing.assert_allclose(labels, expected, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    # A rectangle: as many pixels as its rows times its columns.
    lost = ~own[..., 0]
    sides = lost.any(axis=2).sum(1) * lost.any(axis=1).sum(1)
    np.testing.assert_array_equal(lost.sum(axis=(1, 2)), sides)
    assert 0.5 < share.mean() < 0.8
    assert len(np.unique(share)) > 15


def test_mixup_gives_labels_the_share_of_the_images():
    count, classes = 2000, 4
    (images, labels), given = mix(count, classes, mixup=1.0, cutmix=0.0)
    assert np.ptp(images, axis=(1, 2, 3)).max() == 0
    mine = np.arange(count)
    theirs = np.roll(mine, 1)
    share = (images[:, 0, 0, 0] - theirs) / (mine - theirs)
    expected = share[:, None] * given + (1 - share[:, None]) * np.roll(given, 1, axis=0)
    np.testing.assert_allclose(labels, expected, atol=2e-3)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        np.quantile(share, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.05
    )


def test_the_rest_is_not_mixed():
    count = 2000
    (images, labels), given = mix(count, 2, mixup=0.25, cutmix=0.25)
    mine = np.arange(count)
    changed = (images != mine[:, None, None, None]).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(labels[~changed], given[~changed])
    averaged = changed & (np.ptp(images, axis=(1, 2, 3)) == 0)
    # Four standard deviations are 0.039. CutMix's rectangle may be empty, or all.
    assert averaged.mean() == pytest.approx(0.25, abs=0.045)
    assert changed.mean() == pytest.approx(0.48, abs=0.05)


def encoder_of(channels, size=(16, 16)):
    mean, std = (0.3, 0.4, 0.5)[:channels], (0.2, 0.25, 0.3)[:channels]
    return ImageEncoder(size, channels, mean, std)


def normalised(images, encoder):
    scaled = images / np.float32(255) - np.float32(encoder.mean)
    return (scaled / np.float32(encoder.std)).astype("float32")


def classifier(shape, classes=3, optimizer="sgd"):
    image = keras.Input(shape, name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    model = keras.Model(image, logits)
    return compile_classifier(model, optimizer=optimizer, learning_rate=0.1)


def examples(channels, count=40, classes=3):
    encoder = encoder_of(channels)
    labels = np.eye(classes, dtype="float32")[np.arange(count) % classes]
    images = normalised(batch(count, channels=channels), encoder)
    return encoder, {"image": images, "target": labels}, labels


def values(model):
    return [numpy(weight.value) for weight in model.weights]


@pytest.mark.parametrize(
    ("policy", "channels", "precision"),
    [
        ("light", 1, "mixed_bfloat16"),
        pytest.param("none", 3, "float32", marks=pytest.mark.slow),
        pytest.param("medium", 1, "float32", marks=pytest.mark.slow),
        pytest.param("strong", 3, "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_model_trains_behind_its_augmentation(policy, channels, precision):
    keras.config.set_dtype_policy(precision)
    try:
        encoder, inputs, labels = examples(channels)
        model = classifier((16, 16, channels))
        wrapper = augmented(model, policy, encoder)
    finally:
        keras.config.set_dtype_policy("float32")
    before = values(model)
    history = wrapper.fit(inputs, labels, batch_size=16, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all((a != b).any() for a, b in zip(before, values(model), strict=True))
    expected = model.evaluate(inputs["image"], labels, verbose=0, return_dict=True)
    found = wrapper.evaluate(inputs, labels, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, abs=1e-7)
    logits = wrapper.predict(inputs, verbose=0)["logits"]
    np.testing.assert_array_equal(logits, model.predict(inputs["image"], verbose=0))
    seen = wrapper.get_layer("augment").output
    assert [tensor.dtype for tensor in seen] == ["float32", "float32"]


def test_the_same_seed_trains_the_same_weights_unless_examples_are_weighted():
    def fitted(**weights):
        backend.set_seed(3)
        encoder, inputs, labels = examples(3, count=16)
        model = classifier((16, 16, 3))
        wrapper = augmented(model, "strong", encoder)
        wrapper.fit(inputs, labels, epochs=2, batch_size=16, verbose=0, **weights)
        return values(model)

    first, again = fitted(), fitted()
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    weighted = fitted(sample_weight=np.arange(16, dtype="float32"))
    assert all((a != b).any() for a, b in zip(first, weighted, strict=True))


def identity_model(shape):
    """Make a classifier whose logits are its pixels."""
    image = keras.Input(shape, name="image")
    model = keras.Model(image, keras.layers.Flatten()(image))
    return compile_classifier(model, optimizer="sgd", learning_rate=0.0)


def test_the_model_sees_augmented_pixels_normalised_again(monkeypatch):
    monkeypatch.setitem(augment._POLICIES, "light", ("crop", RandomFlip))
    encoder = encoder_of(3)
    given = batch(12)
    wrapper = augmented(identity_model((16, 16, 3)), "light", encoder)
    labels = np.eye(16 * 16 * 3, dtype="float32")[:12]
    inputs = {"image": normalised(given, encoder), "target": labels}
    seen = numpy(wrapper(inputs, training=True)["logits"]).reshape(given.shape)
    levels = 255 * (seen * np.float32(encoder.std) + np.float32(encoder.mean))
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    levels = np.rint(levels)
    assert (levels != given).any(axis=(1, 2, 3)).sum() >= 10
    for image, original in zip(levels, given, strict=True):
        # Shifted by up to 2 and perhaps mirrored, the middle is somewhere in there.
        middle = image[2:-2, 2:-2]
        shifts = [
            (source[i : i + 12, j : j + 12] == middle).all()
            for source in (original, original[:, ::-1])
            for i in range(5)
            for j in range(5)
        ]
        assert any(shifts)


def test_loss_and_accuracy_go_by_the_mixed_labels(monkeypatch):
    monkeypatch.setitem(augment._POLICIES, "light", (MixImages,))
    encoder, inputs, labels = examples(3)
    wrapper = augmented(classifier((16, 16, 3)), "light", encoder)
    outputs = wrapper(inputs, training=True)
    mixed = numpy(outputs["target"])
    assert (mixed != labels).any(axis=1).mean() > 0.5
    log_share = numpy(ops.log_softmax(outputs["logits"]))
    found = float(numpy(wrapper.compute_loss(inputs, labels, outputs)))
    assert found == pytest.approx(-(mixed * log_share).sum(1).mean(), rel=1e-5)
    metrics = wrapper.compute_metrics(inputs, labels, outputs)
    right = numpy(outputs["logits"]).argmax(1) == mixed.argmax(1)
    assert float(metrics["accuracy"]) == pytest.approx(right.mean(), abs=1e-6)


def test_auxiliary_logits_count_in_training():
    encoder, inputs, labels = examples(3)
    image = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    logits = {name: keras.layers.Dense(3, name=name)(x) for name in ("aux", "logits")}
    model = compile_classifier(
        AuxiliaryModel(image, logits), optimizer="sgd", learning_rate=0.1
    )
    wrapper = augmented(model, "light", encoder)
    before = values(model)
    wrapper.fit(inputs, labels, batch_size=20, verbose=0)
    assert all((a != b).any() for a, b in zip(before, values(model), strict=True))
    expected = model.evaluate(inputs["image"], labels, verbose=0, return_dict=True)
    found = wrapper.evaluate(inputs, labels, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, abs=1e-7)


def test_what_cannot_be_augmented_is_refused():
    encoder = encoder_of(3)
    with pytest.raises(ValueError, match=r"'lihgt'.*'light', 'medium'.*did you mean"):
        augmented(classifier((16, 16, 3)), "lihgt", encoder)
    with pytest.raises(ValueError, match="single logit"):
        augmented(classifier((16, 16, 3), classes=1), "light", encoder)
    with pytest.raises(ValueError, match="not compiled"):
        augmented(classifier((16, 16, 3), optimizer=None), "light", encoder)
    with pytest.raises(ValueError, match="policy='no'"):
        augmented_batch("no", encoder, np.zeros((1, 16, 16, 3), "uint8"), 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_people_see_what_the_network_sees(policy):
    images = batch(8).astype("uint8")
    found = augmented_batch(policy, encoder_of(3), images, 7)
    assert found.dtype == "uint8"
    assert found.shape == images.shape
    assert (found != images).any() == (policy != "none")


def test_a_seed_decides_what_people_see():
    images, encoder = batch(8).astype("uint8"), encoder_of(3)
    first, again, other = (
        augmented_batch("light", encoder, images, seed) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_photos_are_cropped_and_small_images_shifted():
    for size, layer in ((32, RandomShift), (96, RandomResizedCrop)):
        first, *_ = augment.Augment("strong", (size, size), [0.0], [1.0]).steps
        assert type(first) is layer
