"""`kerasdl tabular` as users and scripts meet it."""

import csv
import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 240))
    colours = random.choice(["red", "blue", "?"], 240)
    values = 3 * x + 2 * (colours == "red") + 0.1 * noise
    path = tmp_path_factory.mktemp("data") / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "colour", "value", "class"])
        for row in zip(x, colours, values, values > 0, strict=True):
            writer.writerow(row)
    return path


def train(run_cli, table, folder, *options):
    code, out, err = run_cli(
        *("tabular", "train", "--data", table, "--out", folder, "--json", *options)
    )
    assert code == 0, err
    return json.loads(out)


def test_classes_train_evaluate_and_predict(run_cli, table, tmp_path):
    folder = tmp_path / "run"
    metrics = train(run_cli, table, folder, "--target", "class", "--drop", "value")
    assert metrics["accuracy"] > 0.9
    assert metrics["count"] == 36
    code, out, err = run_cli(
        *("tabular", "evaluate", folder, "--data", table, "--target", "class"),
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["accuracy"] > 0.9
    code, out, err = run_cli(
        *("tabular", "predict", "--bundle", folder, "--data", table, "--json")
    )
    assert code == 0, err
    rows = json.loads(out)
    assert len(rows) == 240
    assert {row["label"] for row in rows} == {"True", "False"}
    assert all(0.5 <= row["probability"] <= 1 for row in rows)
    assert rows[0]["row"].keys() == {"x", "colour", "value", "class"}


def test_values_are_predicted_with_a_range(run_cli, table, tmp_path):
    folder, answers = tmp_path / "run", tmp_path / "answers.csv"
    metrics = train(run_cli, table, folder, "--target", "value", "--drop", "class")
    assert metrics["rmse"] < 1.5  # the values spread by three
    code, out, err = run_cli(
        *("tabular", "predict", "--bundle", folder, "--data", table, "--out", answers)
    )
    assert (code, out) == (0, ""), err
    with answers.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 240
    for row in rows:
        low, value, high = (
            float(row[f"predicted_{name}"]) for name in ("low", "value", "high")
        )
        assert low < value < high
    code, out, err = run_cli(
        *("tabular", "evaluate", folder, "--data", table, "--target", "value")
    )
    assert code == 0, err
    assert out.startswith("root mean squared error ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "valeu"], ["'valeu'", "--target", "x, colour"]),
        (["--target", "value", "--task", "regresion"], ["'regresion'", "regression"]),
        (["--target", "colour"], ["'colour' is missing ('?') at line"]),
        (["--target", "class", "--task", "regression"], ["regression needs numbers"]),
        (["--target", "value", "--drop", "size"], ["'size'"]),
        (["--target", "class", "--epochs", "0"], ["epochs=0"]),
    ],
)
def test_what_is_refused(refused, table, tmp_path, arguments, words):
    folder = tmp_path / "run"
    refused(
        *("tabular", "train", "--data", table, "--out", folder, *arguments),
        words=words,
    )
    assert not folder.exists()


def test_codes_of_no_column_are_refused(run_cli, table, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run_cli(
        *("tabular", "train", "--data", table, "--out", folder),
        *("--target", "class", "--categorical", "size"),
    )
    assert (code, out) == (2, "")
    target, error = err.splitlines()
    assert target.startswith("Target: class, classification")
    assert "'size' to be categorical" in error
    assert not folder.exists()


def test_other_columns_and_no_data_are_refused(
    run_cli,
    refused,
    table,
    tmp_path,
):
    folder, other = tmp_path / "run", tmp_path / "other.csv"
    train(run_cli, table, folder, "--target", "class", "--drop", "value", "--quick")
    other.write_text("x,color\n1,red\n")
    command = ("tabular", "predict", "--bundle", folder, "--data")
    refused(*command, other, words=["'colour'", "missing", "x, color"])
    other.write_text("x,colour\nwide,red\n")
    refused(*command, other, words=["'x'", "row 1", "'wide'"])
    refused(*command, tmp_path / "none.csv", words=["none.csv"])
