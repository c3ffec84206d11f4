"""`kerasdl images` as users and scripts meet it."""

import csv
import json

import keras
import numpy as np
import pytest
from PIL import Image

import kerasdl
from kerasdl import bundle
from kerasdl.augment import POLICIES
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.data.image_sources import load_images
from kerasdl.data.labelled import Labelled
from kerasdl.errors import InputError
from kerasdl.fit import class_weights, fit
from kerasdl.phases import Phases
from kerasdl.predict import Classifier
from kerasdl.recipe import Recipe
from kerasdl_apps import images, images_commands

COLOURS = {"blue": (40, 60, 200), "red": (200, 40, 30)}


def photo(random, colour, size=(20, 24)):
    """Draw a noisy picture of one colour."""
    noise = random.integers(-30, 30, (*size, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype("uint8"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Make a folder of 2 x 24 photos for training and 2 x 6 for validation."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for split, count in (("train", 24), ("val", 6)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                photo(random, colour).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def small(photos, tmp_path_factory):
    """Train a small network on the photos."""
    recipe = images.recipe(
        data=str(photos),
        arguments={"filters": (8, 8)},
        image_size=16,
        epochs=4,
        batch_size=8,
        learning_rate=0.02,
    )
    return kerasdl.train(recipe, out=tmp_path_factory.mktemp("runs") / "run").folder


def test_the_sample_trains(run_cli, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run_cli(
        *("images", "train", "--data", "sample", "--out", folder, "--quick", "--json")
    )
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["count"] == 2000
    assert metrics["accuracy"] > 0.3  # ten classes, 500 images, one epoch
    assert (folder / "report.html").stat().st_size > 10_000
    assert kerasdl.load(folder).encoder.sizes == {"input_shape": (28, 28, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in images.RECIPES if name != "cnn"])
def test_every_other_recipe_trains(model):
    some = load_images("sample").train.subset(np.arange(64))
    recipe = images.recipe(model, quick=True, precision="float32")
    fitted = fit(recipe, kerasdl.BUILDERS[recipe.name], some)
    answers = fitted.predictor.answers(some.examples)
    assert answers.shape == (64, 10)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


def test_photos_train_and_are_measured_on_the_given_split(run_cli, photos, small):
    metrics = json.loads((small / "metrics.json").read_text())
    assert metrics["set"].endswith("validation")
    assert metrics["count"] == 12
    assert metrics["accuracy"] > 0.9
    code, out, err = run_cli("images", "evaluate", small, "--data", photos, "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == metrics["accuracy"]
    assert {"accuracy", "count", "log_loss", "ece"} <= set(json.loads(out))


def test_predict_names_the_bad_file_and_does_the_rest(run_cli, photos, small, tmp_path):
    good = photos / "val" / "red" / "0.png"
    bad, table = tmp_path / "bad.jpg", tmp_path / "answers.csv"
    bad.write_bytes(good.read_bytes()[:200])
    command = ("images", "predict", "--bundle", small, bad, good, "--top", "2")
    code, out, err = run_cli(*command, "--json")
    assert code == 1
    assert err.count("\n") == 1
    assert str(bad) in err
    (row,) = json.loads(out)
    assert row["file"] == str(good)
    assert row["label"] == "red"
    assert [other["label"] for other in row["top"]] == ["red", "blue"]
    assert sum(other["probability"] for other in row["top"]) == pytest.approx(1)
    code, out, err = run_cli(*command, "--out", table)
    assert (code, out) == (1, "")
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["label"], row["label_2"]) == ("red", "blue")


def test_predict_takes_folders_and_patterns(run_cli, photos, small):
    folder, pattern = photos / "val", photos / "val" / "blue" / "*.png"
    command = ("images", "predict", "--bundle", small, "--json")
    code, out, err = run_cli(*command, folder, pattern, "--tta")
    assert code == 0, err
    rows = json.loads(out)
    assert len(rows) == 12  # those of the pattern are in the folder
    for row in rows:
        assert row["label"] == ("red" if "/red/" in row["file"] else "blue")


def test_explain_writes_a_picture_for_each_image(run_cli, photos, small, tmp_path):
    folder = tmp_path / "heat"
    files = [photos / "val" / name / "0.png" for name in COLOURS]
    code, _, err = run_cli(
        *("images", "predict", "--bundle", small, "--explain", folder, *files)
    )
    assert code == 0, err
    assert sorted(path.name for path in folder.iterdir()) == ["0-2.png", "0.png"]
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_check_finds_what_would_stop_a_training(run_cli, photos, tmp_path):
    code, out, err = run_cli(
        *("images", "check", photos, "--out", tmp_path / "page.html", "--json")
    )
    assert code == 0, err
    json.loads(out)
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "resnte"], ["'resnte'", "did you mean 'resnet'"]),
        (["--augment", "lihgt"], ["'lihgt'", "did you mean 'light'"]),
        (["--data", "sampel"], ["'sampel'", "sample"]),
        (["--data", "no/such/folder"], ["no/such/folder"]),
        (["--pretrained", "no/such/folder"], ["no/such/folder"]),
        (["--epochs", "0"], ["epochs=0"]),
    ],
)
def test_what_is_refused(refused, tmp_path, arguments, words):
    folder = tmp_path / "run"
    data = [] if "--data" in arguments else ["--data", "sample"]
    refused("images", "train", "--out", folder, *data, *arguments, words=words)
    assert not folder.exists()


def test_the_command_knows_every_policy():
    """It names them itself, as importing them would import Keras for `--help`."""
    assert images_commands.AUGMENT == POLICIES


def test_predict_refuses_what_is_not_there(refused, small, tmp_path):
    command = ("images", "predict", "--bundle", small)
    refused(*command, tmp_path / "none.jpg", words=["none.jpg"])
    refused(*command, tmp_path, words=[str(tmp_path), "no images"])
    text = ("images", "predict", "--bundle", "sentiment-imdb", __file__)
    refused(*text, words=["sentiment-imdb", "no images"])


def test_a_bundle_takes_another_size_of_image(photos, small):
    larger = bundle.load(small, input_shape=(32, 32, 3))
    assert larger.encoder.size == (32, 32)
    (answer,) = larger([photos / "val" / "red" / "1.png"])
    assert answer.label == "red"


def pictures(count=64, classes=2, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = (
        random.integers(0, 60, (count, 8, 8, 1)) + 150 * labels[:, None, None, None]
    )
    names = tuple(map(str, range(classes)))
    return Labelled("made up", pixels.astype("uint8"), labels, names)


def fitted(console, **changes):
    recipe = Recipe(
        build="cnn",
        kind="image",
        arguments={"filters": (8,)},
        epochs=3,
        batch_size=8,
        learning_rate=0.01,
        **changes,
    )
    return fit(recipe, kerasdl.cnn, pictures(), phases=Phases(console=console))


@pytest.fixture
def silent():
    import io

    from rich.console import Console

    return Console(file=io.StringIO())


def test_augmented_and_averaged_training_learns_and_repeats(silent):
    changes = {"augment": "strong", "ema": 0.9, "class_weights": True}
    first, second = (fitted(silent, **changes) for _ in range(2))
    test = pictures(seed=1)
    answers = first.predictor.answers(test.examples)
    assert (answers.argmax(axis=1) == test.labels).mean() > 0.9
    for one, other in zip(
        first.predictor.model.get_weights(),
        second.predictor.model.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_average_of_the_weights_is_what_is_kept(silent):
    """With a decay of nearly 1 the average stays where the weights started."""
    model = fitted(silent, ema=0.99999).predictor.model
    start = fitted(silent, max_examples=None).predictor.model
    kernels = [m.get_layer("logits").kernel for m in (model, start)]
    kept, moved = map(keras.ops.convert_to_numpy, kernels)
    assert np.abs(kept - moved).max() > 0.01


def test_class_weights_make_every_class_count_alike():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    weights = class_weights(Labelled("", labels, labels, ("a", "b", "c")))
    sums = np.bincount(labels, weights[labels])
    np.testing.assert_allclose(sums, 100 / 3, rtol=1e-6)


def test_class_weights_come_with_the_batches():
    """Two examples of 48 count as much as the other 46."""
    rare = pictures(48, seed=2)
    labels = np.zeros(48, int)
    labels[:2] = 1
    data = Labelled("rare", rare.examples, labels, rare.label_names)
    source = BatchSource(
        {"image": Dense(data.examples)},
        labels,
        weights=class_weights(data)[labels],
        batch_size=48,
    )
    *_, weights = source[0]
    np.testing.assert_allclose(np.sort(weights)[[0, -1]], [48 / 92, 12], rtol=1e-6)


def test_tta_averages_the_logits_of_mirror_images(silent):
    predictor = fitted(silent).predictor
    test = pictures(seed=1).examples
    outputs = [predictor.outputs(part) for part in (test, test[:, :, ::-1])]
    mean = sum(outputs) / 2 / predictor.temperature
    shares = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        predictor.answers(test, tta=True), shares, rtol=1e-4, atol=1e-6
    )


def test_a_recipe_with_tta_answers_and_calibrates_by_mirror_images(silent):
    predictor = fitted(silent, tta=True).predictor
    test = pictures(seed=1).examples
    averaged = predictor.answers(test, tta=True)
    np.testing.assert_array_equal(predictor.answers(test), averaged)
    assert not np.allclose(predictor.answers(test, tta=False), averaged)
    asked = [prediction.probabilities["0"] for prediction in predictor(test)]
    np.testing.assert_allclose(asked, averaged[:, 0])
    assert predictor.answer_settings["tta"] is True
    assert Classifier.are_settings(predictor.answer_settings)
    assert not Classifier.are_settings({"temperature": 1.0, "tta": 1})


def test_what_is_not_mirrored_in_training_is_not_mirrored_later():
    assert images.recipe("cnn").tta
    assert not images.recipe("cnn", augment="none").tta
    assert images.recipe("cnn", augment="none", tta=True).tta


def test_only_images_are_mirrored():
    with pytest.raises(InputError, match="tta=True with kind='text'"):
        Recipe(build="text_cnn", tta=True)
    encoder = ArrayEncoder("features", (2,))
    with pytest.raises(InputError, match="only images"):
        Classifier(kerasdl.mlp((2,), 2), encoder, ["a", "b"], tta=True)
