"""The `kerasdl` command as users and scripts meet it: streams, codes, refusals."""

import codecs
import contextlib
import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kerasdl
from kerasdl import optimizers, runs, schedules, training
from kerasdl.callbacks import ProgressDisplay
from kerasdl.data.text import TextEncoder
from kerasdl_apps import cli, options, sentiment

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "dull", "poor")
QUICK = ("--model", "ngram_classifier", "--epochs", 2)


def reviews(count, seed=0):
    """Rows of a made-up review and its label, alternating."""
    random = np.random.default_rng(seed)
    filler = [f"word{i}" for i in range(30)]
    for i in range(count):
        words = [random.choice((BAD, GOOD)[i % 2]), *random.choice(filler, 6)]
        yield " ".join(random.permutation(words)), ("neg", "pos")[i % 2]


def write_csv(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "reviews.csv", reviews(240))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, made through the command, and the JSON that it printed."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_csv(folder / "reviews.csv", reviews(240))
    out, argv = io.StringIO(), sys.argv
    sys.argv = ["kerasdl", "sentiment", "train", "--data", str(data), "--json"]
    sys.argv += ["--out", str(folder / "run"), *map(str, QUICK)]
    try:
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert ended.value.code == 0
    return folder / "run", json.loads(out.getvalue())


@pytest.fixture
def run_folder(trained, tmp_path):
    return Path(shutil.copytree(trained[0], tmp_path / "copied"))


def no_nan(name):
    raise AssertionError(f"{name} in JSON")


# What train writes and prints.


def test_train_writes_a_run_and_prints_one_json_document(trained):
    folder, printed = trained
    assert {path.name for path in folder.iterdir()} == {
        *("recipe.json", "history.csv", "metrics.json", "report.html"),
        *("plots", "checkpoints", "bundle"),
    }
    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=no_nan)
    assert printed == {"run": str(folder), **metrics}
    assert metrics["set"] == "15% of reviews.csv, held out by seed"
    assert metrics["count"] == 36
    assert metrics["accuracy"] > 0.9
    assert len((folder / "history.csv").read_text().splitlines()) == 3
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["build"], recipe["epochs"]) == ("ngram_classifier", 2)


def test_progress_goes_to_standard_error_and_the_result_to_standard_output(
    run_cli, table, tmp_path
):
    out = tmp_path / "deep" / "run"
    code, stdout, stderr = run_cli(
        *("sentiment", "train", "--data", table, "--out", out, "--quick"), *QUICK
    )
    assert code == 0
    assert stdout.startswith("accuracy ")
    assert str(out) in stdout
    epochs = stderr.splitlines()
    assert [line.split(" · ")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]


@pytest.mark.backend_free  # on the others, where all is slower, test_import trains them
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=() if name == "ngram_classifier" else pytest.mark.slow)
        for name in sorted(sentiment.RECIPES.keys() & kerasdl.BUILDERS.keys())
    ],
)
def test_three_classes_train_with_every_model(model, run_cli, tmp_path):
    rows = [
        (f"{text} {'meh' * (i % 3 == 2)}", ("1", "3", "5")[i % 3])
        for i, (text, _) in enumerate(reviews(210))
    ]
    data = write_csv(tmp_path / "stars.csv", rows, ("review", "stars"))
    code, out, err = run_cli(
        *("sentiment", "train", "--data", data, "--out", tmp_path / "run", "--json"),
        *("--quick", "--model", model),
    )
    assert code == 0, err
    assert set(json.loads(out)["per_class"]) == {"1", "3", "5"}
    code, out, err = run_cli(
        *("sentiment", "predict", "--bundle", tmp_path / "run", "--json"),
        *("--explain", "so good", ""),
    )
    assert code == 0, err
    assert {row["label"] for row in json.loads(out)} <= {"1", "3", "5"}


def test_stars_become_two_classes(run_cli, tmp_path):
    stars = {"neg": (1, 2), "pos": (4, 5)}
    rows = [(text, stars[label][i % 2]) for i, (text, label) in enumerate(reviews(210))]
    data = write_csv(tmp_path / "stars.csv", rows, ("review", "stars"))
    code, out, err = run_cli(
        *("sentiment", "train", "--data", data, "--out", tmp_path / "run", "--json"),
        *("--positive-from", 4, *QUICK),
    )
    assert code == 0, err
    metrics = json.loads(out)
    assert set(metrics["per_class"]) == {"negative", "positive"}
    assert [row["count"] for row in metrics["per_class"].values()] == [16, 16]


def test_without_out_a_run_gets_a_folder_of_its_own(run_cli, table, monkeypatch):
    monkeypatch.chdir(table.parent)
    code, out, _ = run_cli("sentiment", "train", "--data", table.name, "--json", *QUICK)
    folder = Path(json.loads(out)["run"])
    assert code == 0
    assert folder.parent == Path("runs")
    assert folder.name.startswith("sentiment-")
    assert kerasdl.load(folder)("good")[0].label == "pos"


# Refusals of data.

ROWS = "".join(f'"{text}",{label}\n' for text, label in reviews(20))


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["data.csv", "empty"]),
        (b" \n\n", ["data.csv", "empty"]),
        (b"text,label\n", ["no rows"]),
        (b"text,label\nonly one,\xff\xfe\n", ["data.csv", "offset 20", "--encoding"]),
        (b"text,label\na,b\0\n", ["NUL", "offset 14"]),
        (b"text,label\na,b,c\n", ["line 2", "3 fields"]),
        (b"text,label\na,\n" + ROWS.encode(), ["missing in 1 of 21", "line 2"]),
        (b"text,label\na,NaN\n" + ROWS.encode(), ["missing in 1 of 21"]),
        (b"text,other\na,b\n", ["--label-column", "text, other"]),
        (b"label,other\na,b\n", ["--text-column", "label, other"]),
        (b"text,label\n" + b"a,x\n" * 9, ["two or more classes"]),
        (b"text,label\na,x\n" + ROWS.encode(), ["'x' has 1 example"]),
        (b"text,label\n" + b"a,x\nb,y\n" * 9, ["fewer than 3 different examples"]),
        (
            b"text,label\n" + b"".join(b"t,label%d\n" % i for i in range(10_000)),
            ["10,000 different labels"],
        ),
    ],
)
def test_data_that_is_refused(refused, tmp_path, content, words):
    data = tmp_path / "data.csv"
    data.write_bytes(content)
    refused("sentiment", "train", "--data", data, "--out", tmp_path / "o", words=words)
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.backend_free
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_data_that_is_not_there(refused, trained, command):
    bundle = [trained[0]] if command == "evaluate" else []
    for data, word in (("nowhere.csv", "nowhere.csv"), ("sampel", "'sample'")):
        refused("sentiment", command, *bundle, "--data", data, words=[word])


@pytest.mark.backend_free
@pytest.mark.parametrize("classes", [[], ["pos"]])
def test_folders_with_fewer_than_two_classes(refused, tmp_path, classes):
    for name in classes:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text("a text")
    refused(
        *("sentiment", "train", "--data", tmp_path, "--out", tmp_path / "run"),
        words=["class"],
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "sentimnet"], ["'sentimnet'", "did you mean 'sentiment'?"]),
        (["--backend", "tensorflw"], ["did you mean 'tensorflow'?"]),
        (["--epochs", "0"], ["epochs=0"]),
        (["--epochs", "many"], ["--epochs"]),
        (["--batch-size", "-1"], ["batch_size=-1"]),
        (["--learning-rate", "-0.1"], ["learning_rate=-0.1"]),
        (["--learning-rate", "nan"], ["learning_rate=nan"]),
        (["--learning-rate", "inf"], ["learning_rate=inf"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**32)], ["--seed"]),
        (["--epoch", "1"], ["--epochs"]),
        (["--text-column", "body"], ["'body'", "--text-column"]),
        (["--label-column", "grade"], ["'grade'", "--label-column"]),
        (["--encoding", "utf-99"], ["'utf-99'"]),
        (["--encoding-errors", "guess"], ["'guess'"]),
        (["--positive-from", "3"], ["--positive-from", "numbers"]),
    ],
)
def test_options_that_are_refused(refused, table, arguments, words):
    out = table.parent / "run"
    refused(
        "sentiment", "train", "--data", table, "--out", out, *arguments, words=words
    )
    assert list(table.parent.iterdir()) == [table]


def test_a_backend_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused("models", "--backend", "jax", words=["pip install 'kerasdl[jax]'"])


def test_an_unknown_backend_in_the_environment(refused, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torhc")
    refused("models", words=["did you mean 'torch'?"])


@pytest.mark.backend_free
@pytest.mark.parametrize("arguments", [["trian"], ["sentiment"], ["sentiment", "pred"]])
def test_commands_that_are_refused(refused, arguments):
    refused(*arguments, words=["--help"])


def test_divergence_is_refused_and_leaves_nothing(run_cli, table):
    code, out, err = run_cli(
        *("sentiment", "train", "--data", table, "--out", table.parent / "run"),
        *("--learning-rate", "1e30", "--model", "text_cnn", "--quick"),
        *("--batch-size", 999),  # one step, after which nothing shows that it was bad
    )
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert "lower learning rate" in err
    assert list(table.parent.iterdir()) == [table]


# Input that is odd and yet handled.


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("encoding", "arguments"),
    [
        ("utf-8-sig", []),
        ("latin-1", ["--encoding", "latin-1"]),
        ("utf-16", ["--encoding", "utf-16"]),
        ("latin-1", ["--encoding-errors", "replace"]),
    ],
)
def test_encodings_and_byte_order_marks(
    run_cli, trained, tmp_path, encoding, arguments
):
    data = tmp_path / "data.csv"
    data.write_text("text,label\ncafé,pos\n" + ROWS, encoding=encoding)
    code, out, err = run_cli(
        "sentiment", "evaluate", trained[0], "--data", data, "--json", *arguments
    )
    assert code == 0, err
    assert json.loads(out)["count"] == 21


@pytest.mark.slow
@pytest.mark.backend_free
def test_empty_endless_and_huge_reviews_are_handled(run_cli, tmp_path):
    size = 1_000_000  # ten megabytes and a million tokens
    odd = [
        *("", "   ", "\t\n \u3000", "x" * 10 * size, "good bad " * (size // 2)),
        *("😀" * 1000, "<script>alert(1)</script>", "<br " * (size // 10)),
    ]
    rows = [(text, ("neg", "pos")[i % 2]) for i, text in enumerate(odd)]
    data = write_csv(tmp_path / "data.csv", [*rows, *reviews(212)])
    out = tmp_path / "run"
    code, _, err = run_cli(
        *("sentiment", "train", "--data", data, "--out", out, "--quick"),
        *("--model", "sentiment"),
    )
    assert code == 0, err
    assert "<script>alert" not in (out / "report.html").read_text()
    predictions = kerasdl.load(out)(odd)
    assert all(0.5 <= p.probability <= 1 for p in predictions)
    assert predictions[0].probabilities == predictions[1].probabilities


# Output folders.


def test_a_second_train_needs_overwrite(run_cli, refused, run_folder, table):
    arguments = ["sentiment", "train", "--data", table, "--out", run_folder, *QUICK]
    before = (run_folder / "metrics.json").read_text()
    refused(*arguments, words=["--overwrite"])
    assert (run_folder / "metrics.json").read_text() == before
    (run_folder / "stale").mkdir()
    code, _, err = run_cli(*arguments, "--seed", 1, "--overwrite")
    assert code == 0, err
    assert {path.name for path in run_folder.iterdir()} == {
        *("recipe.json", "history.csv", "metrics.json", "report.html"),
        *("plots", "checkpoints", "bundle"),
    }
    assert json.loads((run_folder / "recipe.json").read_text())["seed"] == 1


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "content", ["text,label\n" + "a,x\n" * 9, "text,label\n" + "a,x\nb,y\n" * 200]
)
def test_overwrite_with_bad_data_keeps_the_earlier_run(
    refused, run_folder, tmp_path, content
):
    data = tmp_path / "data.csv"
    data.write_text(content)
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.json")}
    names = sorted(path.name for path in run_folder.iterdir())
    refused(*("sentiment", "train", "--data", data, "--out", run_folder, "--overwrite"))
    after = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.json")}
    assert after == before
    assert names == sorted(path.name for path in run_folder.iterdir())


@pytest.mark.backend_free
def test_folders_that_are_no_place_for_a_run(refused, table, tmp_path, monkeypatch):
    train = ["sentiment", "train", "--data", table, "--overwrite", "--out"]
    refused(*train, table, words=["is a file"])
    refused(*train, table / "run", words=["not writable"])
    refused(*train, tmp_path, words=["no run of kerasdl"])
    refused(*train, tmp_path / ("x" * 300), words=["name too long"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(*train, tmp_path / "run", words=["not writable"])
    assert list(tmp_path.iterdir()) == [table]


# Interruptions and full disks.


@pytest.fixture
def signal_after_first_epoch(monkeypatch):
    def install(number):
        show = ProgressDisplay.on_epoch_end

        def on_epoch_end(self, epoch, logs=None):
            show(self, epoch, logs)
            if epoch == 0:
                signal.raise_signal(number)

        monkeypatch.setattr(ProgressDisplay, "on_epoch_end", on_epoch_end)

    return install


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupted_training_keeps_the_best_so_far(
    run_cli, table, signal_after_first_epoch, number, code
):
    signal_after_first_epoch(number)
    out = table.parent / "run"
    ended, stdout, stderr = run_cli(
        *("sentiment", "train", "--data", table, "--out", out, "--json"),
        *("--model", "ngram_classifier", "--epochs", 50),
    )
    assert ended == code
    assert "Interrupted" in stderr
    assert json.loads(stdout)["accuracy"] > 0.5
    assert "interrupted" in (out / "report.html").read_text()
    assert kerasdl.load(out)("good")[0].probability >= 0.5
    assert len((out / "history.csv").read_text().splitlines()) <= 3


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
@pytest.mark.parametrize("where", ["load", "encode"])
def test_an_interruption_before_the_training_leaves_nothing(
    run_cli, table, monkeypatch, number, code, where
):
    def fail(*_, **__):
        signal.raise_signal(number)

    if where == "load":
        monkeypatch.setitem(training.LOADERS, "text", fail)
    else:
        monkeypatch.setattr(TextEncoder, "fit_encode", fail)
    ended, stdout, stderr = run_cli(
        "sentiment", "train", "--data", table, "--out", table.parent / "a" / "run"
    )
    assert (ended, stdout) == (code, "")
    assert stderr.startswith("error: ")
    assert list(table.parent.iterdir()) == [table]


# Keras leaves its history file to the garbage collector when a callback fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("kerasdl.callbacks.best.write_weights", []),
        ("kerasdl.bundle._write_keras_copy", [runs.CHECKPOINT_FILE]),
        ("kerasdl.report.write_report", [runs.CHECKPOINT_FILE, "bundle/spec.json"]),
    ],
)
def test_a_full_disk_keeps_what_is_valid(run_cli, table, monkeypatch, target, kept):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(target, fail)
    out = table.parent / "run"
    code, stdout, stderr = run_cli(
        "sentiment", "train", "--data", table, "--out", out, *QUICK
    )
    assert (code, stdout) == (1, "")
    assert stderr.endswith("error: No space left on device: somewhere\n")
    assert out.exists() == bool(kept)
    assert all((out / name).is_file() for name in kept)
    assert not [*out.rglob("*partial*"), *out.glob(".*")]
    if "bundle/spec.json" in kept:
        assert kerasdl.load(out)("good")


# Evaluation.


def test_evaluate_measures_what_predict_says(run_cli, trained, tmp_path):
    rows = list(reviews(50, seed=9))
    renamed = [(text, {"neg": "0", "pos": "1"}[label]) for text, label in rows]
    data = write_csv(tmp_path / "more.csv", renamed, ("sentence", "Sentiment"))
    code, out, err = run_cli(
        "sentiment", "evaluate", trained[0], "--data", data, "--json"
    )
    assert code == 0, err
    metrics = json.loads(out, parse_constant=no_nan)
    predictions = kerasdl.load(trained[0])([text for text, _ in rows])
    right = [p.label == label for p, (_, label) in zip(predictions, rows, strict=True)]
    losses = [
        -np.log(p.probabilities[label])
        for p, (_, label) in zip(predictions, rows, strict=True)
    ]
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    assert metrics["log_loss"] == pytest.approx(np.mean(losses))
    assert (metrics["count"], metrics["set"]) == (50, "more.csv")
    assert 0 <= metrics["ece"] <= 1


def test_evaluate_without_a_class_leaves_out_what_is_undefined(
    run_cli, trained, tmp_path
):
    rows = [row for row in reviews(20) if row[1] == "pos"]
    data = write_csv(tmp_path / "pos.csv", rows)
    evaluate = ["sentiment", "evaluate", trained[0], "--data", data]
    code, out, err = run_cli(*evaluate, "--json")
    assert code == 0, err
    assert json.loads(out, parse_constant=no_nan)["roc_auc"] is None
    code, out, _ = run_cli(*evaluate)
    assert code == 0
    assert "measured on pos.csv, 10 examples" in out


@pytest.mark.backend_free
def test_evaluate_refuses_other_labels_with_both_sets(refused, trained, tmp_path):
    data = write_csv(tmp_path / "data.csv", [("a", "joy"), ("b", "anger")])
    refused(
        *("sentiment", "evaluate", trained[0], "--data", data),
        words=["anger, joy", "neg, pos"],
    )


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("given", "known", "matched"),
    [
        (["POS", " Neg "], ["negative", "positive"], [1, 0]),
        (["0", "1"], ["pos", "neg"], [1, 0]),
        (["b", "A"], ["a", "b", "c"], [1, 0]),
        (["pos", "1"], ["neg", "pos"], None),
        (["1", "2"], ["neg", "pos"], None),
    ],
)
def test_labels_are_matched_by_name(given, known, matched):
    if matched is None:
        with pytest.raises(kerasdl.InputError, match=", ".join(given)):
            sentiment.match_labels(given, known)
    else:
        assert sentiment.match_labels(given, known).tolist() == matched


# Bundles.


def damage(change):
    def apply(folder):
        path = folder / "bundle" / "weights.safetensors"
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content))

    return apply


def flip(content):
    content[-1] ^= 1
    return content


def respec(**fields):
    """Change the spec and seal the bundle anew, as a stranger could."""

    def apply(folder):
        from kerasdl.bundle import seal

        path = folder / "bundle" / "spec.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        seal(folder / "bundle")

    return apply


@pytest.mark.backend_free
@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage(lambda content: content[:-9]), ["weights.safetensors", "bytes"]),
        (damage(flip), ["weights.safetensors", "changed"]),
        (
            lambda f: (f / "bundle" / "tokenizer.json").unlink(),
            ["tokenizer", "missing"],
        ),
        (lambda f: (f / "bundle" / "manifest.json").unlink(), ["manifest.json"]),
        (respec(format=99), ["newer", "upgrade"]),
        (respec(builder="eval"), ["'eval'", "not on the list"]),
    ],
)
def test_bundles_that_are_refused(refused, run_folder, table, command, harm, words):
    harm(run_folder)
    if command == "evaluate":
        refused("sentiment", "evaluate", run_folder, "--data", table, words=words)
    else:
        refused("sentiment", "predict", "--bundle", run_folder, "a", words=words)


def test_a_bundle_that_is_not_there(refused):
    refused("sentiment", "predict", "--bundle", "nowhere", "a", words=["'nowhere'"])


# Prediction.


def test_predict_json_has_text_label_probability_and_words(run_cli, trained):
    texts = ["a good lovely word1", "", "  ", "awful 😀 é"]
    code, out, err = run_cli(
        "sentiment", "predict", "--bundle", trained[0], "--json", "--explain", *texts
    )
    assert (code, err) == (0, "")
    rows = json.loads(out, parse_constant=no_nan)
    assert [row["text"] for row in rows] == texts
    assert all(set(row) == {"text", "label", "probability", "words"} for row in rows)
    assert [row["label"] for row in rows][::3] == ["pos", "neg"]
    assert rows[1]["words"] == rows[2]["words"] == []
    assert rows[1]["probability"] == rows[2]["probability"] >= 0.5
    words = {word["word"]: word["push"] for word in rows[0]["words"]}
    assert words["lovely"] > 0


@pytest.mark.parametrize("explain", [True, False])
def test_predict_prints_a_line_each(run_cli, trained, explain):
    code, out, _ = run_cli(
        *("sentiment", "predict", "--bundle", trained[0], "good\nlovely", "x" * 200),
        *(["--explain"] if explain else []),
    )
    assert code == 0
    lines = [line for line in out.splitlines() if not line.startswith("\t")]
    assert lines[0].startswith("pos\t")
    assert lines[0].endswith("\tgood lovely")
    assert lines[1].endswith("x…")
    assert ("\tlovely" in out.partition("\n")[2]) == explain


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("content", "arguments", "texts"),
    [
        (b"good\nbad\n", [], ["good", "bad"]),
        (b"good\r\n\r\nbad", [], ["good", "", "bad"]),
        (codecs.BOM_UTF8 + b"good\n", [], ["good"]),
        (b"\n", [], [""]),
        ("a\fb\u2028c\n".encode(), [], ["a\fb\u2028c"]),
        (b"caf\xe9\n", ["--encoding", "latin-1"], ["café"]),
        (b"caf\xe9\n", ["--encoding-errors", "ignore"], ["caf"]),
    ],
)
def test_texts_from_a_file_or_standard_input(
    run_cli, trained, tmp_path, content, arguments, texts
):
    predict = ["sentiment", "predict", "--bundle", trained[0], "--json", *arguments]
    (tmp_path / "texts.txt").write_bytes(content)
    for extra, stdin in ((["--file", tmp_path / "texts.txt"], b""), ([], content)):
        code, out, err = run_cli(*predict, *extra, stdin=stdin)
        assert code == 0, err
        assert [row["text"] for row in json.loads(out)] == texts


@pytest.mark.backend_free
def test_texts_that_are_refused(refused, trained, tmp_path):
    predict = ["sentiment", "predict", "--bundle", trained[0]]
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\n\xff")
    (tmp_path / "empty.txt").touch()
    refused(*predict, "--file", bad, words=["bad.txt", "offset 5", "--encoding"])
    refused(*predict, "--file", bad, "text", words=["not both"])
    refused(*predict, "--file", tmp_path / "empty.txt", words=["empty"])
    refused(*predict, "--file", tmp_path / "none.txt", words=["none.txt"])
    refused(*predict, "--file", tmp_path, words=["directory"])
    refused(*predict, words=["standard input is empty"])
    refused(*predict, stdin=b"a\0b", words=["standard input", "NUL"])
    refused(*predict, "a\udcffb", words=["offset 1"])


@pytest.mark.backend_free
def test_no_text_on_a_terminal_is_refused_rather_than_waited_for(refused, trained):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    stdin = Terminal(io.BytesIO())
    refused(
        *("sentiment", "predict", "--bundle", trained[0]),
        stdin=stdin,
        words=["no text given"],
    )


@pytest.mark.backend_free
def test_predictions_are_written_as_csv(run_cli, trained, tmp_path):
    out = tmp_path / "predictions.csv"
    code, stdout, _ = run_cli(
        *("sentiment", "predict", "--bundle", trained[0], "--explain", "--out", out),
        *('good, "quoted"\nlovely', "bad"),
    )
    assert (code, stdout) == (0, "")
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ['good, "quoted"\nlovely', "bad"]
    assert [row["label"] for row in rows] == ["pos", "neg"]
    assert "lovely:+" in rows[0]["words"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.backend_free
def test_output_files_that_cannot_be_written_are_refused_first(
    refused, trained, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr("kerasdl.bundle.load", fail)
    predict = ["sentiment", "predict", "--bundle", trained[0], "good", "--out"]
    refused(*predict, tmp_path / "no" / "p.csv", words=["no folder"])
    refused(*predict, tmp_path, words=["is a folder"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(*predict, tmp_path / "p.csv", words=["not writable"])


@pytest.mark.backend_free
def test_a_full_disk_leaves_no_half_of_a_csv(run_cli, trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "p.csv").write_text("earlier")
    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    code, out, err = run_cli(
        *("sentiment", "predict", "--bundle", trained[0], "good"),
        *("--out", tmp_path / "p.csv"),
    )
    assert (code, out, err) == (1, "", "error: No space left on device\n")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


# Builders, unexpected failures.


@pytest.mark.backend_free
def test_models_lists_every_builder(run_cli):
    code, out, err = run_cli("models")
    assert (code, err) == (0, "")
    listed = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in listed] == sorted(kerasdl.BUILDERS)
    code, out, _ = run_cli("models", "--json")
    rows = {row["builder"]: row for row in json.loads(out)}
    assert rows.keys() == kerasdl.BUILDERS.keys()
    for row in rows.values():
        assert row["family"]
        assert row["size"]
        assert row["link"].startswith("https://")
    model = kerasdl.BUILDERS["text_cnn"]()
    assert rows["text_cnn"]["parameters"] == model.count_params()
    assert rows["resnet"]["parameters"] == 25_557_032  # what is trained, of resnet50
    assert "resnet152" in rows["resnet"]["variants"]


def test_an_unexpected_failure_is_one_sentence_and_code_1(run_cli, monkeypatch):
    def fail():
        raise RuntimeError("something\nbroke")

    monkeypatch.delenv("KERASDL_DEBUG", raising=False)
    monkeypatch.setattr("kerasdl_apps.models.describe", fail)
    code, out, err = run_cli("models")
    assert (code, out) == (1, "")
    assert err.startswith("error: RuntimeError: something (set KERASDL_DEBUG=1")


# The real thing: a process of its own.

COMMAND = [sys.executable, "-c", "from kerasdl_apps.cli import main; main()"]


@pytest.mark.slow
@pytest.mark.backend_free
def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    data = write_csv(tmp_path / "reviews.csv", reviews(240))
    out = tmp_path / "run"
    arguments = ["sentiment", "train", "--data", data, "--out", out, "--json"]
    arguments += ["--model", "ngram_classifier", "--epochs", "100000"]
    arguments += ["--learning-rate", "1e-9"]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        # A library that the tests import sets its own level.
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("epoch 1/100000")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["run"] == str(out)
    assert (out / "report.html").is_file()
    assert kerasdl.load(out)("good")


@pytest.mark.slow
@pytest.mark.backend_free
def test_a_disk_that_fills_in_a_process_of_its_own(tmp_path):
    data = write_csv(tmp_path / "reviews.csv", reviews(240))
    out = tmp_path / "run"
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000));"
        "from kerasdl_apps.cli import main; main()"
    )
    arguments = ["sentiment", "train", "--data", data, "--out", out, *map(str, QUICK)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: File too large")
    assert sorted(path.name for path in out.iterdir()) == [
        *("checkpoints", "history.csv", "recipe.json")
    ]


@pytest.mark.backend_free
def test_a_reader_that_has_seen_enough_is_no_error(trained):
    texts = "good\n" * 20_000
    predict = f"{COMMAND[0]} -c '{COMMAND[2]}' sentiment predict --bundle {trained[0]}"
    done = subprocess.run(
        ["bash", "-c", f"{predict} | head -1"],
        input=texts,
        capture_output=True,
        check=False,
        text=True,
        timeout=900,
    )
    assert done.stdout.startswith("pos\t")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_names_of_the_options_are_those_of_the_library():
    assert set(options.OPTIMIZERS) == set(optimizers.OPTIMIZERS)
    assert set(options.SCHEDULES) == set(schedules.SCHEDULES)


@pytest.mark.parametrize("app", ["sentiment", "images", "tabular"])
def test_unknown_optimizer_or_schedule_is_refused(refused, app):
    refused(app, "train", "--optimizer", "adan", words=["adan", "adam"])
    refused(app, "train", "--schedule", "cosin", words=["cosin", "cosine"])


def test_lr_find_prints_and_draws(run_cli, tmp_path):
    data, picture = tmp_path / "data.csv", tmp_path / "curve.png"
    write_csv(data, reviews(120))
    options = ("--data", data, "--model", "text_cnn", "--out", picture, "--json")
    code, out, err = run_cli("sentiment", "lr-find", "--quick", *options)
    assert code == 0, err
    found = json.loads(out)
    assert found["family"] == "convolutional"
    assert found["suggestion"] == min(found["uncapped"], found["cap"])
    assert picture.read_bytes().startswith(b"\x89PNG")
