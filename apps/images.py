"""Image classification: the recipes, and what a bundle is asked.

The numbers below are from `python benchmarks/images.py` on 2 CPU cores that other work
shared; the rows are in `benchmarks/results/images.json`.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.recipe import Recipe
from kerasdl_apps.sentiment import match_labels

DEFAULT_MODEL = "cnn"
DEFAULT_BUNDLE = "fashion-mnist"
QUICK = {"epochs": 1, "max_examples": 500, "batch_size": 16}
# Examples asked at once by `predict`, so that one bad file costs little.
FILES_AT_ONCE = 64


def cnn() -> Recipe:
    """The plain network of three convolutions, and a hidden layer.

    Fashion-MNIST: 93.2 % (3 seeds) in 154 s; the embedded sample: 89.4 % in 29 s.
    """
    return Recipe(
        build="cnn",
        kind="image",
        arguments={
            "filters": (32, 64, 128),
            "early_pools": 2,
            "hidden_units": (256,),
            "dropout": 0.25,
        },
        augment="light",
        tta=True,
        epochs=7,
        batch_size=128,
        learning_rate=6e-3,
        warmup=0.1,
        patience=7,
        validation_fraction=0.05,
    )


def cnn_deep() -> Recipe:
    """Five wider convolutions, erasing, and bfloat16 where that is faster.

    Fashion-MNIST: 94.6 % (1 seed) in 1768 s; without bfloat16 it takes over an hour.
    """
    return replace(
        cnn(),
        arguments={
            "filters": (32, 96, 192),
            "depths": (1, 2, 2),
            "hidden_units": (256,),
            "dropout": 0.4,
        },
        augment="erasing",
        label_smoothing=0.1,
        precision="auto",
        epochs=32,
        patience=32,
    )


def lenet5() -> Recipe:
    """LeNet-5 (LeCun et al. 1998), every map seeing all others.

    The embedded sample: 85.9 % (1 seed) in 26 s.
    """
    return replace(
        cnn(), build="lenet5", arguments={}, epochs=20, patience=20, learning_rate=3e-3
    )


def resnet() -> Recipe:
    """ResNet-20 as for CIFAR-10 (He et al. 2015, section 4.2), in few epochs.

    CIFAR-10: 85.4 % (1 seed) in 1096 s.
    """
    return replace(
        cnn(),
        build="resnet",
        arguments={"variant": "resnet20"},
        epochs=8,
    )


def vit() -> Recipe:
    """A compact transformer, CCT-2/3x2 (Hassani et al. 2021).

    The embedded sample: 88.0 % (1 seed) in 391 s.
    """
    return replace(
        cnn(),
        build="vit",
        arguments={"variant": "cct_2_3x2"},
        optimizer="adamw",
        epochs=20,
        patience=20,
        learning_rate=2e-3,
    )


def vgg() -> Recipe:
    """VGG-11 (Simonyan & Zisserman 2014) with batch norms, a quarter as wide.

    The embedded sample: 87.8 % (1 seed) in 211 s, on PyTorch beside other work.
    """
    return replace(
        cnn(),
        build="vgg",
        arguments={
            "variant": "vgg11",
            "width": 16,
            "hidden_units": (256,),
            "normalize": True,
            "dropout": 0.4,
        },
        encoder={"smallest": 32},
        epochs=8,
        batch_size=64,
        learning_rate=5e-4,
    )


def densenet() -> Recipe:
    """A DenseNet (Huang et al. 2016) of the CIFAR form, with 13 layers.

    The embedded sample: 88.3 % (1 seed) in 495 s, on PyTorch beside other work.
    """
    return replace(
        cnn(),
        build="densenet",
        arguments={"variant": "densenet40", "depths": (3, 3, 3)},
        epochs=6,
        batch_size=64,
        learning_rate=3e-3,
    )


def alexnet() -> Recipe:
    """AlexNet (Krizhevsky 2014), its dense layers narrower, on 64 pixels or more.

    The embedded sample: 87.3 % (1 seed) in 700 s, on PyTorch beside other work.
    """
    return replace(
        vgg(),
        build="alexnet",
        arguments={"hidden_units": (512, 512), "dropout": 0.4},
        encoder={"smallest": 64},
    )


def inception() -> Recipe:
    """GoogLeNet (Szegedy et al. 2014) on 32 pixels or more.

    The embedded sample: 87.3 % (1 seed) in 193 s, on PyTorch.
    """
    return replace(vgg(), build="inception", arguments={}, learning_rate=1e-3)


def efficientnet() -> Recipe:
    """EfficientNet (Tan & Le 2019), half as wide and deep as B0, on 32 pixels or more.

    The embedded sample: 85.5 % (1 seed) in 327 s, on JAX.
    """
    return replace(
        vgg(),
        build="efficientnet",
        arguments={"width": 0.5, "depth": 0.5},
        epochs=12,
        patience=12,
        learning_rate=2e-3,
    )


RECIPES = {
    "alexnet": alexnet,
    "cnn": cnn,
    "cnn_deep": cnn_deep,
    "densenet": densenet,
    "efficientnet": efficientnet,
    "inception": inception,
    "lenet5": lenet5,
    "resnet": resnet,
    "vgg": vgg,
    "vit": vit,
}


def recipe(
    model: str = DEFAULT_MODEL,
    *,
    quick: bool = False,
    pretrained: str | None = None,
    image_size: int | None = None,
    **changes,
) -> Recipe:
    """Return the recipe of a model, or that of fine-tuning one.

    Args:
        model: A key of `RECIPES`.
        quick: One epoch of small batches on at most 500 images: does all work?
        pretrained: Start from this model instead, as
            `kerasdl.pretrained.open_pretrained` takes it.
        image_size: Height and width that images are brought to, in pixels; `None`
            keeps those of arrays and takes the default of the model for photos.
        **changes: Fields of the recipe to replace; `None` keeps the recipe's own.

    Returns:
        The recipe.

    Raises:
        InputError: If there is no such model, or a value is out of range.
    """
    if pretrained:
        from kerasdl.finetuning import finetuning

        chosen = finetuning(pretrained)
    else:
        check_choice("model", model, RECIPES, error=InputError)
        chosen = RECIPES[model]()
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes.get("augment") == "none":  # what is not mirrored in training, either
        changes.setdefault("tta", False)
    if image_size is not None:
        changes["encoder"] = {**chosen.encoder, "image_size": image_size}
    return replace(chosen, **{**(QUICK if quick else {}), **changes})


def evaluate(
    bundle: str, data: str, *, notify, tta: bool | None = None, **data_options
) -> dict:
    """Measure a bundle on labelled images: their test split where they have one.

    Args:
        bundle: Run folder, bundle folder or name of a shipped bundle.
        data: As in a recipe.
        notify: Called with a line that says which data were taken.
        tta: Test-time augmentation, where it differs from the bundle's own.
        **data_options: Options of `kerasdl.data.image_sources.load_images`.

    Returns:
        Metrics of `kerasdl.evaluate.classification_metrics` and the name of the set.
    """
    from kerasdl.bundle import load
    from kerasdl.data.image_sources import load_images
    from kerasdl.evaluate import classification_metrics

    predictor = load(bundle)  # refused in a moment; the data may take longer
    check_images_bundle(predictor, bundle)
    splits = load_images(data, notify=notify, **data_options)
    images = splits.train if splits.test is None else splits.test
    labels = match_labels(images.label_names, predictor.labels)[images.labels]
    answers = predictor.answers(images.examples, tta=tta)
    return {
        "set": images.name,
        **classification_metrics(labels, answers, predictor.labels),
    }


def check_images_bundle(predictor, bundle: str) -> None:
    """Refuse a bundle that does not classify images."""
    from kerasdl.data.images import ImageEncoder

    if not isinstance(predictor.encoder, ImageEncoder):
        raise InputError(f"the bundle {bundle!r} classifies no images; give another")


def image_files(names: Sequence[str]) -> list[Path]:
    """Return the files that arguments name: files, folders, or patterns with `*`.

    Of a folder all files are taken, hidden ones and those that are no images by their
    ending left out.

    Raises:
        InputError: If there is no such file, or a folder holds no images.
    """
    from kerasdl.data.image_sources import files_below

    found = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            below = files_below(path)
            if not below:
                raise InputError(f"the folder {name} holds no images; give another")
            found += below
        elif os.path.lexists(path):
            found.append(path)
        elif matches := sorted(glob.glob(str(path), recursive=True)):
            found += [Path(match) for match in matches]
        else:
            raise InputError(f"there is no file {name}; check the path")
    return list(dict.fromkeys(found))


def predict(predictor, files: Sequence[Path], *, tta: bool | None = None) -> tuple:
    """Classify image files; one that cannot be read does not stop the others.

    Args:
        predictor: A loaded bundle.
        files: Image files.
        tta: Test-time augmentation, where it differs from the bundle's own.

    Returns:
        The readable files, their probabilities `(count, classes)`, and a sentence for
        each file that could not be read.
    """
    import numpy as np

    done, answers, refused = [], [], []
    for start in range(0, len(files), FILES_AT_ONCE):
        chunk = files[start : start + FILES_AT_ONCE]
        try:
            answers.append(predictor.answers(chunk, tta=tta))
            done += chunk
        except InputError:  # by itself, each file can be named
            for file in chunk:
                try:
                    answers.append(predictor.answers([file], tta=tta))
                    done.append(file)
                except InputError as error:
                    refused.append(str(error))
    shape = (0, len(predictor.labels))
    return done, np.concatenate([np.zeros(shape), *answers]), refused
