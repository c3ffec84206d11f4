"""Explanations, against predictions for texts with a word replaced by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kerasdl
from kerasdl.data.text import TextEncoder
from kerasdl.explain import explain, ngram_pushes
from kerasdl.predict import Classifier

TRAINING = ["a good film, didn't bore me", "a bad film", "the plot, the plot!!! 😀"]
LABELS = ("bad", "middling", "good")


def bag(size, name):
    """Pool a random embedding of integers, order-blind."""
    ids = keras.Input((None,), dtype="int32", name=name)
    mask = ops.expand_dims(ops.cast(ops.not_equal(ids, 0), "float32"), -1)
    table = layers.Embedding(size, 8, embeddings_initializer="normal", name=f"{name}_e")
    return ids, ops.sum(table(ids) * mask, axis=1)


def make_predictor(units=3, **options):
    encoder = TextEncoder.fit(TRAINING, min_count=1, **options)
    sizes = {"tokens": encoder.vocabulary_size, "ngrams": encoder.num_ngrams}
    names = [name for name in sizes if name in encoder.encode([""])]
    inputs, pooled = zip(*(bag(sizes[name], name) for name in names), strict=True)
    features = ops.tanh(sum(pooled))
    logits = layers.Dense(units, name="logits")(features)
    model = keras.Model({i.name: i for i in inputs}, logits)
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.7, weight.shape))
    return Classifier(model, encoder, LABELS[-max(units, 2) :], temperature=1.3)


def log_odds(predictor, text, label):
    probability = predictor(text)[0].probabilities[label]
    return np.log(probability) - np.log1p(-probability)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("orders", [(), (1, 2)])
def test_push_is_the_fall_of_the_log_odds_without_the_word(units, orders):
    predictor = make_predictor(units, ngram_orders=orders)
    text = "The good plot, a  bad plot"
    label = predictor(text)[0].label
    words = explain(predictor, text, top=99)
    assert sorted(word.start for word in words) == [0, 4, 9, 13, 15, 18, 22]
    for word in words:
        assert text[word.start : word.end] == word.word
        hidden = text[: word.start] + " zzz " + text[word.end :]
        fall = log_odds(predictor, text, label) - log_odds(predictor, hidden, label)
        assert word.push == pytest.approx(fall, abs=1e-4)
    sizes = [abs(word.push) for word in words]
    assert sizes == sorted(sizes, reverse=True)
    assert explain(predictor, text, top=2) == words[:2]


def test_bag_without_token_input_is_explained():
    predictor = make_predictor(max_tokens=0, ngram_orders=(1, 2, 3))
    words = explain(predictor, "a good film")
    assert sorted(word.word for word in words) == ["a", "film", "good"]
    assert all(word.push for word in words)


def test_line_breaks_and_contractions_keep_their_place():
    text = "A film<br />I didn\u2019t like!!!"
    words = {w.word: w for w in explain(make_predictor(), text)}
    assert set(words) == {"A", "film", "I", "didn\u2019t", "like", "!!!"}
    assert all(text[w.start : w.end] == w.word for w in words.values())


def test_subwords_are_joined_to_words():
    predictor = make_predictor(level="subword", vocabulary_size=280)
    text = "unfilmable plot 😀"
    words = sorted(explain(predictor, text), key=lambda word: word.start)
    assert [word.word for word in words] == ["unfilmable", "plot", "😀"]
    assert all(text[w.start : w.end] == w.word for w in words)


@pytest.mark.parametrize("text", ["", " \n", "\u200b"])
def test_text_without_words_has_no_explanation(text):
    assert explain(make_predictor(), text) == []


def test_long_text_is_explained_by_its_ends():
    predictor = make_predictor(max_tokens=6)
    text = "good film " + "plot " * 5000 + "bad film"
    words = explain(predictor, text, top=99)
    starts = sorted(word.start for word in words)
    assert starts == [0, 5, 10, len(text) - 13, len(text) - 8, len(text) - 4]


def test_ngrams_are_shared_among_their_words():
    encoder = TextEncoder.fit(TRAINING, min_count=1, ngram_orders=(1, 2))
    good, film, plot = (
        encoder.tokenizer.token_to_id(w) for w in ["good", "film", "plot"]
    )
    row = encoder.encode(["good film good film"])["ngrams"][0]
    words = {w: int(encoder.encode([w])["ngrams"][0][0]) for w in ("good", "film")}
    (pair,) = set(encoder.encode(["good film"])["ngrams"][0]) - set(words.values())
    assert set(row) == {*words.values(), pair}  # "film good" was never seen
    added = np.zeros(len(row))
    added[row == words["good"]] = 6  # seen twice
    added[row == pair] = 4  # seen twice, two words each
    pushes = ngram_pushes(encoder, np.array([good, film, good, film]), row, added)
    np.testing.assert_allclose(pushes, [3 + 1, 1, 3 + 1, 1])
    row = encoder.encode(["plot"])["ngrams"][0]
    pushes = ngram_pushes(encoder, np.array([plot]), row, np.ones(1))
    np.testing.assert_allclose(pushes, [1])


def test_shares_of_random_ngrams_add_up():
    encoder = TextEncoder.fit(TRAINING, min_count=1, ngram_orders=(1, 2, 4))
    text = "the plot, a good film, zzz the plot, a bad film " * 3
    row = encoder.encode([text])["ngrams"][0]
    added = np.random.default_rng(0).normal(size=len(row))
    ids = np.array(encoder.tokenizer.encode(text).ids)
    pushes = ngram_pushes(encoder, ids, row, added)
    np.testing.assert_allclose(pushes.sum(), added.sum())
    assert ngram_pushes(encoder, ids[:0], row[:0], added[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["ngram_classifier", "sentiment"])
def test_pushes_of_a_bag_are_exact(name):
    """All pushes of the n-grams sum to the log-odds less the bias."""
    encoder = TextEncoder.fit(TRAINING, min_count=1, ngram_orders=(1, 2, 3))
    options = {"num_ngrams": encoder.num_ngrams}
    if name == "sentiment":
        options |= {"vocabulary_size": encoder.vocabulary_size, "units": 3}
    model = kerasdl.BUILDERS[name](**options)
    random = np.random.default_rng(0)
    bag = model.get_layer("bag")
    for weight in bag.weights:
        weight.assign(random.normal(0, 1, weight.shape))
    weight = 1.0
    if name == "sentiment":  # the deep branch is silent, the bag is scaled
        for value in model.get_layer("deep").weights:
            value.assign(np.zeros(value.shape))
        weight = 0.8
        model.get_layer("logits").weight.assign([weight, 0.5])
    predictor = Classifier(model, encoder, ("bad", "good"), temperature=1.3)
    text = "a good film, a bad plot!!!"
    label = predictor(text)[0].label
    pushes = [word.push for word in explain(predictor, text, top=99)]
    assert len(pushes) == 8
    bias = 2 * weight * float(keras.ops.convert_to_numpy(bag.bias.value)[0]) / 1.3
    bias = bias if label == "good" else -bias
    odds = log_odds(predictor, text, label)
    assert sum(pushes) == pytest.approx(odds - bias, abs=1e-4)
    assert abs(odds - bias) > 0.01


def test_deep_words_and_exact_ngrams_add_up():
    """A word's push is its n-grams' part plus its occlusion in the deep branch."""
    encoder = TextEncoder.fit(TRAINING, min_count=1, ngram_orders=(1,))
    model = kerasdl.BUILDERS["sentiment"](
        encoder.vocabulary_size, num_ngrams=encoder.num_ngrams, units=3
    )
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.3, weight.shape))
    model.get_layer("logits").weight.assign([0.7, 0.6])
    predictor = Classifier(model, encoder, ("bad", "good"))
    text = "a good film"
    label = predictor(text)[0].label
    sign = 1 if label == "good" else -1
    inputs = encoder.encode([text])
    ngrams = inputs["ngrams"][0]
    bag = model.get_layer("bag")
    ratio, kernel = (
        keras.ops.convert_to_numpy(w.value)[:, 0] for w in (bag.ratio, bag.kernel)
    )
    norm = np.sqrt((ratio[ngrams] ** 2).sum())
    for word in explain(predictor, text):
        hidden = text[: word.start] + "zzz" + text[word.end :]
        deep = encoder.encode([hidden])["tokens"]
        changed = predictor.encoded_outputs(
            {"tokens": deep, "ngrams": inputs["ngrams"]}
        )
        full = predictor.encoded_outputs(inputs)
        fall = sign * np.diff(full - changed)[0, 0]
        (gram,) = encoder.encode([word.word])["ngrams"][0]
        part = 2 * 0.7 * bag.scale * ratio[gram] * kernel[gram] / norm
        assert word.push == pytest.approx(fall + sign * part, rel=1e-4, abs=1e-4)
