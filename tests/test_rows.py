"""Rows of tables: what is read, learnt and refused, and the features that come out."""

import json
import math

import numpy as np
import pytest

import kerasdl
from kerasdl.data.rows import Columns, RowEncoder, load_rows
from kerasdl.errors import InputError
from kerasdl.evaluate import conformal_margin, regression_metrics
from kerasdl.recipe import Recipe

AGES = [20.0, 30.0, 40.0, 50.0, None, None, None, 35.0, 25.0, 45.0]
COLOURS = ["red", "red", "red", "blue", "blue", "blue", "?", "green", "red", "blue"]
CODES = ["1", "1.0", 2, 2, "1", "2", "1", "2", 1, 2]


def columns():
    return Columns.of({"age": AGES, "colour": COLOURS, "code": CODES, "same": [7] * 10})


def features(encoder, rows):
    return encoder.encode(encoder.check(rows))["features"].values


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_features_follow_the_formulas():
    encoder, inputs = RowEncoder.fit_encode(
        columns(), categorical=["code"], few_values=2
    )
    found = inputs["features"].values
    assert found.dtype == np.float32
    known = np.array([age for age in AGES if age is not None])
    filled = [np.median(known) if age is None else age for age in AGES]
    expected = [
        (np.array(filled) - known.mean()) / known.std(),
        [age is None for age in AGES],
        # Three blue and four red, one green, one missing: two values are frequent.
        [colour == "blue" for colour in COLOURS],
        [colour == "red" for colour in COLOURS],
        [str(code)[0] == "1" for code in CODES],
        [str(code)[0] == "2" for code in CODES],
    ]
    np.testing.assert_allclose(found, np.array(expected, float).T, atol=1e-6)
    assert encoder.sizes == {"input_shape": (6,)}


def test_numbers_with_few_values_are_amounts_and_classes():
    rows = Columns.of({"grade": [1, 2, 3, 4] * 5})
    _, inputs = RowEncoder.fit_encode(rows, few_values=4)
    assert inputs["features"].values.shape == (20, 5)
    _, inputs = RowEncoder.fit_encode(rows, few_values=3)
    assert inputs["features"].values.shape == (20, 1)


def test_new_values_and_gaps_are_encoded():
    encoder, _ = RowEncoder.fit_encode(columns())
    usual = features(encoder, {"age": 35, "colour": "red", "code": 1, "same": 0})
    odd = features(encoder, {"age": 1e9, "colour": "pink", "code": None, "same": "x"})
    assert np.isfinite(odd).all()
    assert odd[0, 0] == 10  # clipped
    assert odd.shape == usual.shape
    assert odd[0, 1:].sum() == 0  # no indicator is set, the gap of age neither


def test_rows_come_as_dictionaries_columns_or_a_data_frame():
    encoder, _ = RowEncoder.fit_encode(columns())
    rows = list(columns())

    class Frame:
        def to_dict(self, kind):
            assert kind == "list"
            return {"age": AGES, "colour": COLOURS, "code": CODES, "same": [7] * 10}

    expected = features(encoder, columns())
    np.testing.assert_array_equal(features(encoder, rows), expected)
    np.testing.assert_array_equal(features(encoder, Frame()), expected)
    for row in rows:
        row["age"] = math.nan if row["age"] is None else row["age"]
    np.testing.assert_array_equal(features(encoder, rows), expected)
    assert len(encoder.check(rows[0])) == 1


def test_the_settings_rebuild_the_encoder(tmp_path):
    encoder, inputs = RowEncoder.fit_encode(columns())
    config = json.loads(json.dumps(encoder.config))
    again = RowEncoder.from_folder(config, tmp_path)
    np.testing.assert_array_equal(features(again, columns()), inputs["features"].values)
    config["columns"][0].pop("kind")
    with pytest.raises(InputError, match="columns of the bundle are not valid"):
        RowEncoder.from_folder(config, tmp_path)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([{"age": 1}], "column 'colour', which the model was trained on, is missing"),
        ([{"age": "old", "colour": "red", "code": 1}], "'age'.*row 1 has 'old'"),
        ([{"age": math.inf, "colour": "red", "code": 1}], "'age'.*row 1 has inf"),
        (["age"], "row 0 is str; give dictionaries"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, match):
    encoder, _ = RowEncoder.fit_encode(columns())
    with pytest.raises(InputError, match=match):
        encoder.check(rows)


def test_tables_without_information_are_refused():
    with pytest.raises(InputError, match="no column has two different values"):
        RowEncoder.fit_encode(Columns.of({"same": [1] * 9, "id": list("abcdefghi")}))
    with pytest.raises(InputError, match="no column 'size'"):
        RowEncoder.fit_encode(columns(), categorical=["size"])


def test_the_target_decides_the_task(tmp_path):
    told = []
    rows = [f"{i},{i % 3},{i / 7},{'yes' if i % 2 else 'no'}" for i in range(60)]
    path = write(tmp_path / "data.csv", "row,class,value,word", rows)
    for target, names in (("class", ("0", "1", "2")), ("word", ("no", "yes"))):
        data = load_rows(path, target=target, notify=told.append).train
        assert data.label_names == names
        assert set(data.examples.values) == {"row", "class", "value", "word"} - {target}
    data = load_rows(path, target="value", notify=told.append).train
    assert data.label_names == ()
    np.testing.assert_allclose(data.labels, np.arange(60) / 7)
    assert [line.split("; ")[0] for line in told] == [
        "Target: class, classification",
        "Target: word, classification",
        "Target: value, regression",
    ]
    data = load_rows(path, target="class", task="regression", drop=["row"]).train
    assert data.label_names == ()
    assert "row" not in data.examples.values


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": "clas"}, "no column 'clas'.*--target"),
        ({"target": "class", "drop": ["size"]}, "no column 'size' to leave out"),
        ({"target": "word", "task": "regression"}, "'no' at line 2; regression needs"),
        ({"target": "row", "task": "classification"}, "hardly a class"),
        ({"target": "class", "drop": ["row", "word"]}, "no column besides the target"),
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path, options, match):
    rows = [f"{i},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(60)]
    path = write(tmp_path / "data.csv", "row,class,word", rows)
    with pytest.raises(InputError, match=match):
        load_rows(path, notify=str, **options)
    with pytest.raises(InputError, match="no table"):
        load_rows(str(tmp_path / "other.csv"), target="class")


def linear_table(path, count=400):
    """Write a table whose target is a formula of its columns, with some noise."""
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, count))
    colours = random.choice(["red", "blue"], count)
    values = 1000 + 50 * x + 100 * (colours == "red") + 5 * noise
    rows = [f"{a:.5f},{c},{v:.3f}" for a, c, v in zip(x, colours, values, strict=True)]
    return write(path, "x,colour,value", rows), values


def test_regression_learns_a_formula_and_its_range_holds(tmp_path):
    path, values = linear_table(tmp_path / "data.csv")
    recipe = Recipe(
        build="mlp",
        kind="table",
        data=path,
        data_options={"target": "value"},
        arguments={"hidden": (16,)},
        epochs=25,
        batch_size=32,
        learning_rate=0.03,
        patience=25,
    )
    run = kerasdl.train(recipe, out=tmp_path / "run")
    assert run.metrics["rmse"] < 10  # the noise is 5, the values spread by 70
    assert run.metrics["rmse_low"] < run.metrics["rmse"] < run.metrics["rmse_high"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "root mean squared error" in page
    assert "Largest errors" in page
    predictor = kerasdl.load(tmp_path / "run")
    rows = load_rows(path, target="value", notify=str).train.examples
    np.testing.assert_allclose(
        predictor.answers(rows), run.predictor.answers(rows), rtol=1e-5
    )
    inside = [
        p.low <= value <= p.high
        for p, value in zip(predictor(rows), values, strict=True)
    ]
    # Of 34 examples for validation the margin has a standard error of 5 %.
    assert 0.7 < np.mean(inside) <= 1


@pytest.mark.slow
def test_small_tables_are_cross_validated(tmp_path):
    path, _ = linear_table(tmp_path / "data.csv", count=60)
    recipe = Recipe(
        build="mlp",
        kind="table",
        data=path,
        data_options={"target": "value"},
        arguments={"hidden": (4,)},
        epochs=1,
    )
    run = kerasdl.train(recipe, out=tmp_path / "run")
    assert run.metrics["set"] == "5-fold cross-validation of data.csv"
    assert run.metrics["count"] == 60


def test_regression_metrics_follow_the_formulas():
    random = np.random.default_rng(0)
    values, noise = random.normal(size=(2, 500))
    found = regression_metrics(values, values + 0.1 * noise)
    errors = 0.1 * noise
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["mae"] == pytest.approx(np.abs(errors).mean())
    assert found["r2"] == pytest.approx(1 - np.mean(errors**2) / values.var())
    # A mean of squares of n normals has the relative deviation sqrt(2 / n).
    width = found["rmse_high"] - found["rmse_low"]
    expected = 2 * 1.96 * found["rmse"] * np.sqrt(2 / 500) / 2
    assert width == pytest.approx(expected, rel=0.2)


def test_the_margin_holds_new_errors_as_often_as_promised():
    random = np.random.default_rng(0)
    held = [
        np.abs(random.normal()) <= conformal_margin(random.normal(size=30))
        for _ in range(2000)
    ]
    assert 0.88 < np.mean(held) < 0.94
