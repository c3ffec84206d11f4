"""Training runs: what is measured on what, repeated exactly, and calibrated."""

import csv
import io
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from rich.console import Console

import kerasdl
from kerasdl import training
from kerasdl.data.labelled import Labelled, deal, hold_out
from kerasdl.data.text import TextEncoder
from kerasdl.errors import InputError
from kerasdl.fit import fit
from kerasdl.phases import Phases
from kerasdl.recipe import Recipe

ENCODER = {"max_tokens": 16, "min_count": 1}
# Small models of both kinds: one bag, one sequence.
NGRAM = Recipe(
    build="ngram_classifier",
    encoder={"max_tokens": 0, "ngram_orders": (1, 2), "min_count": 1},
    epochs=2,
    learning_rate=0.1,
)
CNN = Recipe(
    build="text_cnn",
    arguments={"filters": 8, "embedding_dim": 8, "kernel_sizes": (2,)},
    encoder=ENCODER,
    epochs=2,
    word_vectors=1.0,
    label_smoothing=0.1,
)


def make_texts(count, classes=2, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    told = np.where(random.random(count) < noise, 1 - labels % 2, labels)
    fillers = random.integers(0, 40, (count, 5))
    texts = [
        f"kind{label} " + " ".join(f"w{i}" for i in row)
        for label, row in zip(told, fillers, strict=True)
    ]
    names = tuple(f"class {i}" for i in range(classes))
    return Labelled("made up", texts, labels, names)


def write_tsv(path, texts):
    rows = [f"{t}\t{i}" for t, i in zip(texts.examples, texts.labels, strict=True)]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return str(path)


@pytest.fixture
def data(tmp_path):
    return write_tsv(tmp_path / "data.tsv", make_texts(240))


def weights(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


@pytest.mark.parametrize("recipe", [NGRAM, CNN], ids=["ngram", "cnn"])
def test_a_seed_gives_the_same_run_twice(recipe, data, tmp_path):
    recipe = replace(recipe, data=data, seed=3)
    first, second = (kerasdl.train(recipe, out=tmp_path / name) for name in "ab")
    assert {**first.metrics, "seconds": 0} == {**second.metrics, "seconds": 0}
    assert first.history["loss"] == second.history["loss"]
    others = weights(second.predictor.model)
    for path, value in weights(first.predictor.model).items():
        np.testing.assert_array_equal(value, others[path])
    if recipe is NGRAM:
        other = kerasdl.train(replace(recipe, seed=4), out=tmp_path / "c")
        assert other.history["loss"] != first.history["loss"]


def test_a_run_holds_what_its_folder_holds(data, tmp_path):
    run = kerasdl.train(replace(CNN, data=data), out=tmp_path / "run")
    assert run.interrupted is None
    assert json.loads((run.folder / "metrics.json").read_text()) == run.metrics
    recipe = json.loads((run.folder / "recipe.json").read_text())
    assert Recipe(**recipe).to_json() == recipe
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(run.history["loss"])
    loaded = kerasdl.load(run.folder)
    texts = ["kind0 w1", "", "kind1"]
    np.testing.assert_allclose(
        loaded.answers(texts), run.predictor.answers(texts), atol=1e-6
    )


def test_metrics_are_those_of_the_texts_held_out(data, tmp_path):
    run = kerasdl.train(replace(NGRAM, data=data, seed=5), out=tmp_path / "run")
    _, test = hold_out(make_texts(240), training.TEST_FRACTION, seed=5)
    predicted = run.predictor.answers(test.examples).argmax(axis=1)
    assert run.metrics["count"] == len(test) == 36
    assert run.metrics["accuracy"] == pytest.approx(np.mean(predicted == test.labels))
    assert run.metrics["set"] == "15% of data.tsv, held out by seed"


def test_a_given_test_split_is_what_is_measured(tmp_path):
    for split, count in (("train", 30), ("test", 8)):
        for i, text in enumerate(make_texts(count, seed=count).examples):
            folder = tmp_path / "data" / split / ("neg", "pos")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.txt").write_text(text)
    recipe = replace(NGRAM, data=str(tmp_path / "data"))
    metrics = kerasdl.train(recipe, out=tmp_path / "run").metrics
    assert (metrics["set"], metrics["count"]) == ("data test", 8)


@pytest.mark.slow
def test_few_texts_are_cross_validated_by_models_that_have_not_seen_them(
    tmp_path, monkeypatch
):
    seen = []
    fit_encode = TextEncoder.fit_encode.__func__

    def spy(cls, texts, **options):
        seen.append(set(texts))
        return fit_encode(cls, texts, **options)

    monkeypatch.setattr(TextEncoder, "fit_encode", classmethod(spy))
    texts = make_texts(40, classes=3)
    recipe = replace(NGRAM, data=write_tsv(tmp_path / "few.tsv", texts))
    metrics = kerasdl.train(recipe, out=tmp_path / "run").metrics
    assert metrics["set"] == "5-fold cross-validation of few.tsv"
    assert metrics["count"] == 40
    assert len(seen) == 6
    folds = deal(texts, 5, seed=0)
    for held, trained_on in zip(folds, seen[1:], strict=True):
        assert not trained_on & {texts.examples[row] for row in held}


def test_folds_are_stratified_keep_copies_together_and_hold_every_row_once():
    texts = make_texts(33, classes=3)
    copies = Labelled(
        "copies",
        [*texts.examples, *(f" {text.upper()}" for text in texts.examples)],
        np.tile(texts.labels, 2),
        texts.label_names,
    )
    folds = deal(copies, 5, seed=1)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(66))
    for rows in folds:
        assert {row % 33 for row in rows} == {row for row in rows if row < 33}
        counts = np.bincount(copies.labels[rows], minlength=3)
        assert counts.min() >= 4
        assert counts.max() <= 6
    assert len(deal(texts.subset(np.arange(9)), 5, seed=1)) == 3
    again = deal(copies, 5, seed=1)
    assert all(map(np.array_equal, folds, again))


def test_too_few_different_texts_for_folds_are_refused_by_name(tmp_path):
    texts = make_texts(12)
    same = Labelled("x", ["same", "other"] * 6, texts.labels, texts.label_names)
    with pytest.raises(InputError, match="'class 0' has fewer than 3 different"):
        deal(same, 5, seed=0)
    data = write_tsv(tmp_path / "same.tsv", same)
    with pytest.raises(InputError, match="different examples"):
        kerasdl.train(replace(NGRAM, data=data), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_limit_keeps_shares_and_rare_classes():
    many = make_texts(400, classes=2)
    labels = many.labels.copy()
    labels[:5] = 2
    names = (*many.label_names, "rare")
    texts = Labelled("many", many.examples, labels, names)
    limited = training._limit(texts, replace(NGRAM, max_examples=40))
    assert np.bincount(limited.labels).tolist() == [20, 20, 3]
    assert set(limited.examples) <= set(texts.examples)
    assert training._limit(texts, replace(NGRAM, max_examples=400)) is texts


@pytest.mark.parametrize("build", [NGRAM.build, CNN.build])
def test_calibration_improves_or_keeps_the_log_loss_on_validation(build):
    recipe = replace({"text_cnn": CNN}.get(build, NGRAM), epochs=3)
    texts = make_texts(200, noise=0.2)
    fitted = fit(recipe, kerasdl.BUILDERS[build], texts)
    _, validation = hold_out(texts, recipe.validation_fraction, seed=recipe.seed)
    predictor, rows = fitted.predictor, np.arange(len(validation))

    def log_loss():
        probabilities = predictor.answers(validation.examples)
        return -np.log(probabilities[rows, validation.labels]).mean()

    calibrated = log_loss()
    predictor.temperature = 1.0
    assert calibrated <= log_loss() + 1e-9


@pytest.mark.slow
def test_unlabelled_texts_teach_the_deep_branch_and_leave_the_bag():
    recipe = Recipe(
        build="sentiment",
        arguments={"embedding_dim": 4, "units": 3},
        encoder={"max_tokens": 16, "ngram_orders": (1, 2), "min_count": 1},
        epochs=1,
        learning_rate=0.02,
    )
    texts, more = make_texts(80), make_texts(160, seed=1).examples
    builder = kerasdl.BUILDERS["sentiment"]
    alone = fit(recipe, builder, texts).predictor
    taught = fit(recipe, builder, texts, more).predictor
    before, after = weights(alone.model), weights(taught.model)
    for path, value in before.items():
        if path.startswith("bag/"):
            np.testing.assert_array_equal(after[path], value)
    assert not np.array_equal(
        after["embedding/embeddings"], before["embedding/embeddings"]
    )
    assert taught.encoder.config == alone.encoder.config
    assert taught.answers(more).shape == (160, 2)


def test_a_bag_alone_learns_from_unlabelled_texts():
    texts, more = make_texts(80), make_texts(160, seed=1).examples
    builder = kerasdl.BUILDERS["ngram_classifier"]
    alone, taught = (
        weights(fit(NGRAM, builder, texts, extra).predictor.model)
        for extra in ((), more)
    )
    assert not np.array_equal(taught["bag/ratio"], alone["bag/ratio"])


def test_the_best_epoch_is_kept():
    recipe = replace(CNN, epochs=6, learning_rate=0.5, patience=6)
    fitted = fit(
        recipe,
        kerasdl.BUILDERS["text_cnn"],
        make_texts(80, noise=0.3),
    )
    _, validation = hold_out(make_texts(80, noise=0.3), 0.1, seed=0)
    predictor = fitted.predictor
    predictor.temperature = 1.0
    probabilities = predictor.answers(validation.examples)
    rows = np.arange(len(validation))
    loss = -np.log(probabilities[rows, validation.labels]).mean()
    assert len(fitted.history["val_loss"]) == 6
    assert loss == pytest.approx(min(fitted.history["val_loss"]), rel=1e-3)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate"])
def test_recipes_that_cannot_train_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name}={value}"):
        replace(NGRAM, **{name: value})


def test_recipes_that_do_not_fit_leave_nothing(data, tmp_path):
    for recipe, match in (
        (replace(NGRAM, build="ngram_clasifier"), "did you mean 'ngram_classifier'"),
        (replace(CNN, arguments={"layers": 3}), "layers"),
        (replace(CNN, schedule="cosin"), "cosine"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            kerasdl.train(replace(recipe, data=data), out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["data.tsv"]


def test_a_builder_of_ones_own(data, tmp_path):
    def tiny(
        vocabulary_size=10, num_classes=2, *, optimizer="adam", learning_rate=1e-3
    ):
        from kerasdl.tasks import compile_classifier

        tokens = keras.Input((None,), dtype="int32", name="tokens")
        hidden = keras.layers.Embedding(vocabulary_size, 4)(tokens)
        hidden = keras.layers.GlobalAveragePooling1D()(hidden)
        model = keras.Model(tokens, keras.layers.Dense(num_classes)(hidden))
        return compile_classifier(
            model, optimizer=optimizer, learning_rate=learning_rate
        )

    recipe = replace(CNN, build=tiny, arguments={}, word_vectors=0, data=data)
    run = kerasdl.train(recipe, out=tmp_path / "run")
    assert json.loads((run.folder / "recipe.json").read_text())["build"] == "tiny"
    assert run.metrics["count"] == 36


def test_a_batch_that_does_not_fit_into_memory_is_computed_in_parts(monkeypatch):
    from kerasdl import fit as module

    run, tried = module.run_epochs, []

    def run_epochs(model, recipe, *others, **options):
        tried.append(recipe.accumulate)
        if recipe.accumulate < 4:
            raise MemoryError
        return run(model, recipe, *others, **options)

    recipe, texts = replace(NGRAM, batch_size=16), make_texts(40)
    builder = kerasdl.BUILDERS["ngram_classifier"]
    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_epochs", run_epochs)
        phases = Phases(console=Console(file=out))
        found = fit(recipe, builder, texts, phases=phases).predictor
    assert tried == [1, 2, 4]
    assert "is now computed in 4 parts of 4." in out.getvalue()
    expected = fit(replace(recipe, accumulate=4), builder, texts).predictor
    for path, value in weights(found.model).items():
        np.testing.assert_array_equal(value, weights(expected.model)[path])
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_epochs", None)
        with pytest.raises(TypeError):
            fit(recipe, builder, texts)
