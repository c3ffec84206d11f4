"""Layers that change images at random in training, each image by draws of its own.

Images are `(batch, height, width, channels)` float32 from 0 to 255, with any number of
channels. The layers compute in float32 under every precision policy.

Keras 3.15 has layers of most of these names. `RandomCrop` and `RandAugment` draw once
for the whole batch, `RandomColorJitter` fails on anything but three channels, `CutMix`
gives the labels shares that are up to 6 points off the pixels', both mixing layers fail
under `mixed_bfloat16` on some backends, and each of them keeps TensorFlow from
compiling the model that it is part of.
"""

import keras
import numpy as np
from keras import ops

from kerasdl.layers import pixels


class ImageAugmentation(keras.layers.Layer):
    """Base of the layers that change images in training and nothing else.

    A subclass implements `augment(images)`.

    Args:
        seed: Seed of the draws; drawn itself if omitted.
    """

    def __init__(self, *, seed: int | None = None, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def augment(self, images):
        """Return changed images of the same shape."""
        raise NotImplementedError

    def call(self, images, training=False):
        return self.augment(images) if training else images

    def uniform(self, images, low=0.0, high=1.0):
        """Draw one number per image, `(batch,)`."""
        count = ops.shape(images)[0]
        return keras.random.uniform((count,), low, high, seed=self.seed_generator)

    def compute_output_spec(self, images, training=False):  # noqa: ARG002
        return keras.KerasTensor(images.shape, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="kerasdl")
class RandomShift(ImageAugmentation):
    """Pad with black and crop back to size: shift by whole pixels, evenly drawn.

    Args:
        share: Largest shift as a share of height and of width, rounded to pixels.

    Reference:
        [Deep Residual Learning](https://arxiv.org/abs/1512.03385), section 4.2, where
        images of 32 pixels are shifted by up to 4.
    """

    def __init__(self, share: float = 0.125, **kwargs):
        super().__init__(**kwargs)
        self.share = share

    def augment(self, images):
        rows, columns = pixels.grid(images)
        height, width = images.shape[1:3]
        rows = rows + self._shift(images, height)
        return pixels.pick(images, rows, columns + self._shift(images, width))

    def _shift(self, images, size):
        most = round(self.share * size)
        drawn = ops.floor(self.uniform(images, -most, most + 1))
        return ops.reshape(drawn, (-1, 1, 1))

    def get_config(self):
        return {**super().get_config(), "share": self.share}


@keras.saving.register_keras_serializable(package="kerasdl")
class RandomResizedCrop(ImageAugmentation):
    """Crop a random part and resize it, bilinearly, to the size of the whole.

    Args:
        area: Smallest share of the area that is kept.
        ratio: Largest factor by which the part is wider than the image, or higher. A
            side that would not fit is cut.

    Reference:
        [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), section 6.
        Differs: keeps more of the image, as a small set of photos needs.
    """

    def __init__(self, area: float = 0.5, ratio: float = 4 / 3, **kwargs):
        super().__init__(**kwargs)
        self.area = area
        self.ratio = ratio

    def augment(self, images):
        area = self.uniform(images, self.area, 1.0)
        longest = float(np.log(self.ratio))
        ratio = ops.exp(self.uniform(images, -longest, longest))
        height, width = images.shape[1:3]
        rows = self._places(images, height, ops.sqrt(area / ratio))
        columns = self._places(images, width, ops.sqrt(area * ratio))
        return pixels.pick_between(images, rows[:, :, None], columns[:, None, :])

    def _places(self, images, size, share):
        """Return where each row or column comes from, `(batch, size)`."""
        kept = ops.clip(ops.round(share * size), 1, size)
        first = ops.floor(self.uniform(images) * (size - kept + 1))
        kept, first = (ops.reshape(value, (-1, 1)) for value in (kept, first))
        middle = ops.arange(size, dtype="float32") + 0.5
        return ops.clip(middle * kept / size - 0.5, 0, kept - 1) + first

    def get_config(self):
        return {**super().get_config(), "area": self.area, "ratio": self.ratio}


@keras.saving.register_keras_serializable(package="kerasdl")
class RandomFlip(ImageAugmentation):
    """Mirror every other image, left to right."""

    def augment(self, images):
        mirrored = pixels.per_image(self.uniform(images) < 0.5)
        return ops.where(mirrored, ops.flip(images, axis=2), images)


@keras.saving.register_keras_serializable(package="kerasdl")
class RandomRotation(ImageAugmentation):
    """Turn about the middle, bilinearly; the corners become black.

    Args:
        degrees: Largest angle, either way.
    """

    def __init__(self, degrees: float = 15.0, **kwargs):
        super().__init__(**kwargs)
        self.degrees = degrees

    def augment(self, images):
        angle = self.uniform(images, -self.degrees, self.degrees)
        return pixels.pick_between(images, *pixels.turned(images, angle))

    def get_config(self):
        return {**super().get_config(), "degrees": self.degrees}


@keras.saving.register_keras_serializable(package="kerasdl")
class ColorJitter(ImageAugmentation):
    """Change brightness, contrast and saturation, in this order.

    A grey image has no saturation to change.

    Args:
        strength: Largest change of each factor from 1.

    Reference:
        [fb.resnet.torch](https://github.com/facebookarchive/fb.resnet.torch), whose
        `ColorJitter` draws the order, too.
    """

    def __init__(self, strength: float = 0.4, **kwargs):
        super().__init__(**kwargs)
        self.strength = strength

    def augment(self, images):
        def factor():
            return self.uniform(images, 1 - self.strength, 1 + self.strength)

        images = pixels.blend(images, 0.0, factor())
        images = pixels.blend(images, pixels.mean_grey(images), factor())
        return pixels.blend(images, pixels.grey(images), factor())

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}


@keras.saving.register_keras_serializable(package="kerasdl")
class RandomErasing(ImageAugmentation):
    """Paint a rectangle of some images in their mean colour.

    Args:
        rate: Share of the images that lose a rectangle.
        area: Smallest and largest share of the image's area.
        ratio: Largest factor by which it is wider than high, or higher than wide.

    Reference:
        [Random Erasing](https://arxiv.org/abs/1708.04896), section 3. Differs: the
        mean is that of the image, and a side that would not fit is cut.
    """

    def __init__(
        self,
        rate: float = 0.25,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: float = 10 / 3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.rate = rate
        self.area = tuple(area)
        self.ratio = ratio

    def augment(self, images):
        height, width = images.shape[1:3]
        erased = ops.cast(self.uniform(images) < self.rate, "float32")
        area = self.uniform(images, *self.area) * (height * width)
        longest = float(np.log(self.ratio))
        ratio = ops.exp(self.uniform(images, -longest, longest))
        sides = ops.sqrt(area / ratio), ops.sqrt(area * ratio)
        inside = True
        for places, length, most in zip(
            pixels.grid(images), sides, (height, width), strict=True
        ):
            side = erased * ops.clip(ops.round(length), 1, most)
            first = ops.floor(self.uniform(images) * (most - side + 1))
            inside = _between(places, first, first + side) & inside
        mean = ops.mean(images, axis=(1, 2), keepdims=True)
        return ops.where(inside, mean, images)

    def get_config(self):
        config = {"rate": self.rate, "area": self.area, "ratio": self.ratio}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="kerasdl")
class MixImages(keras.layers.Layer):
    """Mix each image with its neighbour in the batch, and their labels alike.

    MixUp averages the two, CutMix replaces a rectangle; the first image's share is
    drawn evenly from 0 to 1 for either, and what is left of it gives the labels'. The
    batch must have been shuffled.

    Inputs: images and labels `(batch, classes)`, one-hot or soft. Outputs alike.

    Args:
        mixup: Share of the images that are averaged.
        cutmix: Share of the images that get a rectangle; the rest stay as they are.
        seed: Seed of the draws; drawn itself if omitted.

    Reference:
        [mixup](https://arxiv.org/abs/1710.09412), section 3.2, and
        [CutMix](https://arxiv.org/abs/1905.04899), section 3.1, both with alpha 1.
    """

    def __init__(
        self,
        mixup: float = 0.5,
        cutmix: float = 0.5,
        *,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mixup = mixup
        self.cutmix = cutmix
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, images, labels, training=False):
        if not training:
            return images, labels
        own = self._own(images)
        share = ops.mean(own, axis=(1, 2, 3))[:, None]
        return (
            own * images + (1 - own) * ops.roll(images, 1, axis=0),
            share * labels + (1 - share) * ops.roll(labels, 1, axis=0),
        )

    def _own(self, images):
        """Return how much of each pixel stays, `(batch, height, width, 1)`."""
        shape = (4, ops.shape(images)[0])
        drawn = keras.random.uniform(shape, seed=self.seed_generator)
        choice, share, *middle = (drawn[i] for i in range(4))
        inside = True
        for places, place, size in zip(
            pixels.grid(images), middle, images.shape[1:3], strict=True
        ):
            half = ops.floor(size * ops.sqrt(1 - share) / 2)
            centre = ops.floor(place * size)
            inside = _between(places, centre - half, centre + half) & inside
        cut = 1 - ops.cast(inside, "float32")
        averaged = ops.ones_like(cut) * pixels.per_image(share)
        choice = pixels.per_image(choice)
        rest = ops.where(choice < self.mixup + self.cutmix, cut, 1.0)
        return ops.where(choice < self.mixup, averaged, rest)

    def compute_output_spec(self, images, labels, training=False):  # noqa: ARG002
        return (
            keras.KerasTensor(images.shape, self.compute_dtype),
            keras.KerasTensor(labels.shape, self.compute_dtype),
        )

    def get_config(self):
        config = {"mixup": self.mixup, "cutmix": self.cutmix, "seed": self.seed}
        return {**super().get_config(), **config}


def _between(places, first, end):
    """Mark the rows or columns of each image from `first` up to `end`."""
    first, end = (pixels.per_image(place) for place in (first, end))
    places = places[..., None]
    return (places >= first) & (places < end)
