"""Augmentation policies, and models that augment what they are trained on."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kerasdl.checks import check_choice
from kerasdl.data.images import ImageEncoder
from kerasdl.layers import (
    MixImages,
    RandAugment,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomShift,
    TrivialAugmentWide,
)
from kerasdl.tasks import AuxiliaryModel, compile_classifier

# Images of this height and width on are cropped as photos are, smaller ones shifted.
PHOTO_SIDE = 96

# name: what it does to an image, in order
_POLICIES = {
    "none": (),
    # In eight epochs of Fashion-MNIST a shift costs more than it brings.
    "light": ("photo crop", RandomFlip),
    "erasing": ("photo crop", RandomFlip, RandomErasing),
    # Two operations of magnitude 9: Cubuk et al. 2019, as for ResNet-50.
    "medium": ("crop", RandomFlip, RandAugment, RandomErasing),
    # As in the recipe of torchvision's `IMAGENET1K_V2` weights.
    "strong": ("crop", RandomFlip, TrivialAugmentWide, RandomErasing, MixImages),
}
POLICIES = tuple(_POLICIES)


def augmented(model: keras.Model, policy: str, encoder: ImageEncoder) -> keras.Model:
    """Wrap a classifier of images into a model that augments in training.

    The wrapper shares weights and optimizer with the classifier: training one trains
    the other. Its inputs are `image`, normalised as the classifier wants it, and
    `target`, the labels as `(batch, classes)`, one-hot or soft; loss and metrics go by
    the labels that come out of the augmentation. At evaluation it is the classifier.

    Args:
        model: Compiled classifier, with one logit per class and perhaps auxiliary
            ones.
        policy: One of `POLICIES`.
        encoder: Knows how the images were normalised.

    Returns:
        Compiled model with the outputs `logits`, `target` and auxiliary logits.

    Raises:
        ValueError: If the policy is unknown, or the model not compiled or with one
            logit in all.
    """
    augment = Augment(policy, encoder.size, encoder.mean, encoder.std, name="augment")
    if not model.compiled:
        raise ValueError(f"model {model.name!r} is not compiled; give it an optimizer")
    auxiliary = isinstance(model, AuxiliaryModel)
    classes = (model.output["logits"] if auxiliary else model.output).shape[-1]
    if classes == 1:
        raise ValueError(
            f"model {model.name!r} has a single logit; augmentation needs one per class"
        )
    inputs = {
        "image": keras.Input(
            encoder.sizes["input_shape"], dtype="float32", name="image"
        ),
        "target": keras.Input((classes,), dtype="float32", name="target"),
    }
    image, target = augment(inputs["image"], inputs["target"])
    answer = model(image)
    outputs = {**(answer if auxiliary else {"logits": answer}), "target": target}
    wrapper = AugmentedModel(inputs, outputs, name=f"augmented_{model.name}")
    return compile_classifier(wrapper, optimizer=model.optimizer, learning_rate=0.0)


def augmented_batch(
    policy: str, encoder: ImageEncoder, images: np.ndarray, seed: int
) -> np.ndarray:
    """Augment images as in training, for people to look at.

    Args:
        policy: One of `POLICIES`.
        encoder: Knows the size of the model's images.
        images: Pixels `(count, height, width, channels)` uint8.
        seed: Same seed, same result.

    Returns:
        Pixels of the same shape, uint8.

    Raises:
        ValueError: If the policy is unknown.
    """
    plain = [0.0] * images.shape[-1], [1 / 255] * images.shape[-1]
    augment = Augment(policy, encoder.size, *plain, seed=seed)
    labels = np.zeros((len(images), 1), "float32")
    seen, _ = augment(images.astype("float32"), labels, training=True)
    return np.clip(np.rint(ops.convert_to_numpy(seen)), 0, 255).astype("uint8")


class Augment(keras.layers.Layer):
    """Apply a policy to normalised images and their labels, in training only.

    Inputs: images `(batch, height, width, channels)` float32, normalised, and labels
    `(batch, classes)`. Outputs alike.

    Args:
        policy: One of `POLICIES`.
        size: Height and width of the images.
        mean: Mean of each channel, of pixels from 0 to 1.
        std: Standard deviation of each channel, of pixels from 0 to 1.
        seed: Seed of the draws; drawn itself if omitted.

    Raises:
        ValueError: If the policy is unknown.
    """

    def __init__(
        self,
        policy: str,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        seed: int | None = None,
        **kwargs,
    ):
        check_choice("policy", policy, POLICIES)
        super().__init__(**{"dtype": "float32", **kwargs})
        self.steps = _steps(policy, size, seed)
        self.shift, self.scale = (255 * np.float32(value) for value in (mean, std))
        self.built = True

    def call(self, images, labels, training=False):
        """Return images and labels, changed in training."""
        if not training or not self.steps:
            return images, labels
        # The pixels were whole levels before they were normalised.
        shift, scale = map(ops.convert_to_tensor, (self.shift, self.scale))
        images = ops.round(images * scale + shift)
        for step in self.steps:
            if isinstance(step, MixImages):
                images, labels = step(images, labels, training=True)
            else:
                images = step(images, training=True)
        return (images - shift) / scale, labels

    def compute_output_spec(self, images, labels, training=False):  # noqa: ARG002
        """Return the shapes of the inputs."""
        return tuple(
            keras.KerasTensor(value.shape, self.compute_dtype)
            for value in (images, labels)
        )


class AugmentedModel(AuxiliaryModel):
    """Functional model that scores its logits against its own output `target`."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Return the loss against the labels that came out of the augmentation."""
        y_pred = dict(y_pred)
        y = y_pred.pop("target")
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):  # noqa: ARG002
        """Update the metrics with `logits` and the labels that came out."""
        return super().compute_metrics(x, y_pred["target"], y_pred, sample_weight)


def _steps(policy: str, size: tuple[int, int], seed: int | None) -> list:
    """Make the layers of a policy."""
    is_photo = min(size) >= PHOTO_SIDE
    # For photos a mild form of Szegedy et al. 2014; He et al. 2015, section 4.2.
    crop = RandomResizedCrop if is_photo else RandomShift
    makers = [
        crop if isinstance(maker, str) else maker
        for maker in _POLICIES[policy]
        if is_photo or maker != "photo crop"
    ]
    if seed is None:
        return [make() for make in makers]
    # Far apart: on PyTorch the n-th draw of a seed is the first of the n-th seed after.
    return [make(seed=seed + 1000 * place) for place, make in enumerate(makers)]
