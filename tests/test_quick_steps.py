"""Steps with little Python: the same training, and where they step aside."""

import mmap
import os
import platform
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

import kerasdl
from kerasdl import backend
from kerasdl.layers import Conv2D, Dense
from kerasdl.optimizers import make_optimizer
from kerasdl.schedules import learning_rate_schedule
from kerasdl.steps import quick_steps, set_training_step
from kerasdl.tasks import compile_classifier

ON_TORCH = keras.backend.backend() == "torch"
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(44, 6, 6, 3)).astype("float32")
LABELS = RANDOM.integers(0, 3, 44)


class Noisy(layers.Layer):
    """Draw noise from the generator that all of Keras shares."""

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


def model(optimizer="adamw", *, noisy=False, dropout=0.0, **options):
    backend.set_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, use_bias=False, kernel_regularizer="l2")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(dropout)(x)
    x = Noisy()(x) if noisy else x
    logits = layers.Dense(3)(layers.Flatten()(x))
    rate = learning_rate_schedule("cosine", 0.01, 100)
    optimizer = make_optimizer(optimizer, rate, **options)
    return compile_classifier(
        keras.Model(image, logits), optimizer=optimizer, learning_rate=rate
    )


def trained(model, images=IMAGES, labels=LABELS, *, quickly, weights=None, batch=8):
    backend.set_seed(1)
    with quick_steps(model) if quickly else nullcontext():
        logs = model.fit(
            *(images, labels, batch),
            sample_weight=weights,
            epochs=3,
            shuffle=False,
            verbose=0,
        )
    assert "train_step" not in vars(model)
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in variables], logs.history


@pytest.fixture
def traces(monkeypatch):
    """Trace a shape when it comes again; return what became of the traces."""
    if not ON_TORCH:
        pytest.skip("of PyTorch")
    from kerasdl.backend import torch_traces

    found, trace = [], torch_traces.Replayed._trace
    monkeypatch.setattr(torch_traces, "SECONDS", 0.0)
    monkeypatch.setattr(
        torch_traces.Replayed,
        "_trace",
        lambda *a: found.append(trace(*a)) or found[-1],
    )
    return found


OPTIMIZERS = {
    "adamw": {},
    "adam": {"clip": 0.1},
    "sgd": {"ema": 0.9},  # whose update stays outside
    "rmsprop": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quick_training_is_that_of_keras(name):
    weights = RANDOM.random(44)
    results = [
        trained(model(name, **OPTIMIZERS[name]), quickly=quickly, weights=weights)
        for quickly in (True, False)
    ]
    for found, expected in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    for key, values in results[1][1].items():
        assert results[0][1][key] == pytest.approx(values, rel=1e-4)


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
def test_fused_adam_takes_gradients_that_lie_otherwise_in_memory():
    import torch

    from kerasdl.backend.torch_adam import FusedAdam

    start = RANDOM.normal(size=(3, 4, 5)).astype("float32")
    gradient = torch.tensor(RANDOM.normal(size=(5, 4, 3)).astype("float32"))
    gradient = gradient.permute(2, 1, 0)  # as those of convolutions are
    results = []
    for fused in (True, False):
        weight = keras.Variable(start, name="kernel")
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build([weight])
        for step in range(1, 4):
            if fused:
                optimizer.iterations.assign(step)
                update = FusedAdam.of(optimizer, [weight])
                with torch.no_grad():
                    update([step * gradient], torch.tensor(0.1))
            else:
                optimizer.apply([step * gradient], [weight])
        results.append(keras.ops.convert_to_numpy(weight))
    np.testing.assert_allclose(*results, atol=1e-4)


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
def test_fused_adam_leaves_weights_that_lie_otherwise_to_keras():
    import torch

    from kerasdl.backend.torch_adam import FusedAdam

    weight = keras.Variable(np.ones((3, 4), "float32"), name="kernel")
    weight._value = torch.nn.Parameter(torch.ones(4, 3).t())
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([weight])
    assert FusedAdam.of(optimizer, [weight]) is None


def test_convolutions_train_as_those_of_keras():
    """Wide enough for kernels whose gradients lie otherwise in memory."""
    random = np.random.default_rng(0)
    images = random.normal(size=(128, 8, 8, 3)).astype("float32")
    labels = random.integers(0, 3, 128)
    losses = []
    for quickly in (True, False):
        backend.set_seed(0)
        network = kerasdl.cnn(
            (8, 8, 3), 3, filters=(32, 64), optimizer="adam", learning_rate=1e-2
        )
        _, history = trained(network, images, labels, quickly=quickly, batch=64)
        losses.append(history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-2)


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_what_belongs_to_a_kernel_lies_in_memory_as_pytorch_reads_it(name):
    import torch

    from kerasdl.backend.torch_adam import FusedAdam

    image = keras.Input((9, 9, 3))
    x = image
    for size in (3, 1):
        x = Conv2D(5, size)(x)
    network = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    start = [RANDOM.normal(size=w.shape).astype("float32") for w in network.weights]
    network.set_weights(start)
    optimizer = make_optimizer(name, 0.1)
    compile_classifier(network, optimizer=optimizer, learning_rate=0.1)
    step = backend.quick_step(network, None)
    assert isinstance(step.update, FusedAdam) == (name == "adamw")
    slots = [slot for slot in optimizer.variables if len(slot.shape) == 4]
    assert len(slots) >= 2
    for variable in (*network.layers[1].weights[:1], *slots):
        kernel = variable.value.permute(3, 2, 0, 1)
        assert kernel.is_contiguous(memory_format=torch.channels_last)
    for found, expected in zip(network.get_weights(), start, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_dense_layers_of_many_rows_train_as_those_of_keras():
    """Wider than long and longer than wide, whose kernels are laid out otherwise."""
    series = np.random.default_rng(0).normal(size=(44, 600, 4)).astype("float32")
    results = []
    for dense in (Dense, layers.Dense):
        backend.set_seed(0)
        given = keras.Input(series.shape[1:])
        x = dense(4, activation="relu")(dense(16, activation="relu")(given))
        logits = layers.Dense(3)(layers.GlobalMaxPooling1D()(x))
        network = compile_classifier(
            keras.Model(given, logits), optimizer="sgd", learning_rate=0.1
        )
        variables, _ = trained(network, series, quickly=True)
        results.append(variables)
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("own", ["", "MALLOC_TOP_PAD_"])
def test_freed_memory_stays_for_the_next_step_unless_told_otherwise(own):
    """Told by the pages that the system hands out again."""
    done = subprocess.run(
        [sys.executable, "-c", TAKE_AND_FREE],
        env={**os.environ, **({own: "0"} if own else {})},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert before > PAGES
    assert (after < before / 10) is (own == "")


# Blocks of 80 MB, more than glibc keeps of its own accord.
PAGES = 80_000_000 // mmap.PAGESIZE
TAKE_AND_FREE = """
import resource
import torch
import kerasdl
from kerasdl.steps import quick_steps

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages())
with quick_steps(kerasdl.mlp((2,), 2)):
    # Small blocks settle in the large ones first.
    print(min(pages() for _ in range(10)))
"""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_replay_is_the_step_bit_for_bit(name, traces, monkeypatch):
    from kerasdl.backend import torch_traces

    found, _ = trained(model(name, dropout=0.2, **OPTIMIZERS[name]), quickly=True)
    assert traces[0] is not None
    assert len(traces) == 2  # that of the smaller last batch, too
    monkeypatch.setattr(torch_traces, "SECONDS", 1e9)
    expected, _ = trained(model(name, dropout=0.2, **OPTIMIZERS[name]), quickly=True)
    assert all(map(np.array_equal, found, expected))


SERIES = RANDOM.normal(size=(44, 6, 2)).astype("float32")
TOKENS = RANDOM.integers(1, 9, (44, 6)).astype("int32")
BUILDERS = {
    "rnn": (kerasdl.rnn, SERIES[0].shape, SERIES),
    "transformer": (kerasdl.transformer_classifier, 9, TOKENS),
    "vit": (partial(kerasdl.vit, patch_size=3, depth=1), (6, 6, 3), IMAGES),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_networks_with_kernels_of_their_own_are_replayed(name, traces, monkeypatch):
    """That of a recurrent layer gives more where there may be a gradient."""
    from kerasdl.backend import torch_traces

    build, first, inputs = BUILDERS[name]
    results = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(torch_traces, "SECONDS", seconds)
        backend.set_seed(0)
        network = build(first, 3)
        variables, _ = trained(network, inputs, quickly=True)
        results.append([*variables, backend.forward(network)(inputs)])
    assert len(traces) == 2
    assert None not in traces
    assert all(map(np.array_equal, *results))


def test_a_trace_is_of_one_branch_and_the_others_have_their_own(traces, monkeypatch):
    """Full texts, texts padded behind, and texts that PyTorch's kernel cannot read."""
    from kerasdl.backend import torch_traces

    full, behind, before = (TOKENS[:8].copy() for _ in range(3))
    behind[2, 4:] = 0
    before[2, :4] = 0
    texts = np.concatenate([full, behind, behind, full])
    results = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(torch_traces, "SECONDS", seconds)
        backend.set_seed(0)
        network = kerasdl.lstm_sentiment(9, units=(3,), dropout=0.0)
        variables, _ = trained(network, texts, LABELS[:32] % 2, quickly=True)
        forward = backend.forward(network)
        inputs = full, full, behind, behind, before, full, behind
        results.append([*variables, *map(forward, inputs)])
    assert len(traces) == 4  # of steps and of inference, with padding and without
    assert None not in traces
    assert all(map(np.array_equal, *results))


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
def test_a_branch_on_a_random_number_is_not_replayed(traces):
    import torch

    from kerasdl.backend.torch_traces import Replayed, decide

    def compute(x):
        return x + 1 if decide(torch.rand_like(x).mean() < 0.5) else x - 1

    replayed = Replayed(compute, [])
    found = {float(replayed(torch.zeros(2))[0]) for _ in range(40)}
    assert found == {-1.0, 1.0}
    assert traces == [None]


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
def test_a_trace_computes_nothing_twice_and_no_random_number_once():
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from kerasdl.backend import torch_traces

    def compute(x):
        back_and_forth = x.t().permute(1, 0)
        noise = torch.rand_like(x) - torch.rand_like(x)
        return [back_and_forth.cos() + x.cos(), noise]

    x = torch.arange(6.0).reshape(2, 3)
    module = make_fx(compute)(x)
    torch_traces._simplify(module)
    torch_traces._quicken(module)
    calls = [n.name for n in module.graph.nodes if n.op.startswith("call_")]
    assert sorted(calls) == ["add", "cos", "rand_like", "rand_like_1", "sub"]
    found, noise = module(x)
    torch.testing.assert_close(found, 2 * x.cos())
    assert noise.abs().min() > 0


@pytest.mark.skipif(not ON_TORCH, reason="of PyTorch")
def test_a_trace_writes_only_over_what_nothing_else_reads():
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from kerasdl.backend import torch_traces

    def compute(x, y):
        read_again = x.sin()
        repeated = x.sum().expand(2, 3)
        half = y.cos()[:, :2]  # beside it lies the other half
        return [
            x.exp() + y,
            x + y.exp(),
            x.tanh().t() + y.t(),
            half.relu(),
            x.cos().relu(),
            *(x + y, read_again + y, read_again, repeated + y, half + 1),
            *(x[0].exp() + y, x.relu(), torch.add(x.erf(), y, alpha=2)),
            *(norm(x).relu(), norm(x) + 1),  # the same call
            *(x.t().reshape(6).relu(), x.t().reshape(2, 3) * 2),  # one copy
        ]

    def norm(x):
        nothing = [None] * 4
        options = {"training": True, "momentum": 0.0, "eps": 1e-3}
        return torch.native_batch_norm(x, *nothing, **options)[0]

    x, y = torch.arange(-2.0, 4.0).reshape(2, 3), torch.full((2, 3), 0.5)
    given = x.clone(), y.clone()
    expected = compute(x, y)
    module = make_fx(compute)(x, y)
    torch_traces._simplify(module)
    torch_traces._quicken(module)
    torch.testing.assert_close(module(x, y), expected, rtol=0, atol=0)
    assert module.code.count("add_(") == 3
    assert module.code.count("relu_(") == 1
    torch.testing.assert_close((x, y), given, rtol=0, atol=0)


def test_what_draws_outside_its_variables_is_not_replayed(traces):
    found, _ = trained(model(noisy=True), quickly=True)
    assert traces == [None, None]
    assert all(np.isfinite(value).all() for value in found)


def test_a_step_of_another_kind_is_left_alone():
    split = model()
    set_training_step(split, micro_batches=2)
    step = split.train_step
    with quick_steps(split):
        assert split.train_step is step


def test_inference_is_replayed_and_sees_new_weights(traces):
    network = model(dropout=0.2)
    forward = backend.forward(network)
    expected = [forward(IMAGES)]
    found = [forward(IMAGES) for _ in range(2)]
    assert len(traces) == 1
    assert traces[0] is not None
    for weight in network.trainable_variables:
        weight.assign(weight * 1.5)
    found.append(forward(IMAGES))
    expected += [expected[0], backend.forward(network)(IMAGES)]
    assert all(map(np.array_equal, found, expected))
    assert not np.array_equal(found[0], found[-1])


def test_texts_of_many_lengths_are_not_all_traced(traces):
    tokens = keras.Input((None,), dtype="int32")
    network = keras.Model(tokens, layers.Embedding(9, 4)(tokens))
    forward = backend.forward(network)
    for length in (*range(1, 9), *range(1, 9)):
        assert forward(np.ones((2, length), "int32")).shape == (2, length, 4)
    assert len(traces) == 4
