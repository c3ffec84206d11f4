"""Vision transformers, against torchvision and PyTorch's own encoder."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import ops
from references import torchvision

from kerasdl import backend, load, load_torch_weights, vit
from kerasdl.bundle import save_bundle
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.errors import InputError
from kerasdl.layers import StochasticDepth, resize_positions
from kerasdl.predict import Classifier

TINY = {"width": 16, "depth": 2, "num_heads": 2, "optimizer": None}
# torchvision's names and timm's.
TIMM = {
    "conv_proj": "patch_embed.proj",
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "encoder.layers.encoder_layer_": "blocks.",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "encoder.ln": "norm",
    "heads.head": "head",
}


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def logits(model, batch):
    return backend.forward(model)(batch)


def values(model):
    return [ops.convert_to_numpy(weight.value) for weight in model.weights]


def randomise(torch_model):
    """Move what starts at zero or one, in place."""
    import torch

    random = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in torch_model.parameters():
            noise = random.standard_normal(tuple(parameter.shape), "float32")
            parameter.add_(torch.from_numpy(noise), alpha=0.02)
    return torch_model.eval()


def reference(image_size=64, depth=2):
    """Make torchvision's network of the widths of ViT-B/16."""
    return randomise(
        torchvision().models.VisionTransformer(
            image_size=image_size,
            patch_size=16,
            num_layers=depth,
            num_heads=12,
            hidden_dim=768,
            mlp_dim=3072,
            num_classes=11,
        )
    )


def torch_logits(torch_model, batch):
    import torch

    with torch.no_grad():
        return torch_model(torch.from_numpy(batch.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize("names", ["torchvision", "timm"])
def test_equals_torchvision_with_its_weights(names):
    expected_model = reference()
    weights = expected_model.state_dict()
    if names == "timm":
        pattern = re.compile("|".join(map(re.escape, TIMM)))
        weights = {
            pattern.sub(lambda hit: TIMM[hit[0]], name): array
            for name, array in weights.items()
        }
    model = vit((64, 64, 3), 11, variant="vit_b16", depth=2, optimizer=None)
    load_torch_weights(model, weights)
    batch = images(2, 64, 64, 3)
    expected = torch_logits(expected_model, batch)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(model, batch), expected, atol=1e-4, rtol=0)


def test_weights_of_another_image_size_are_refused():
    model = vit((32, 64, 3), 11, depth=2, optimizer=None)
    before = values(model)
    with pytest.raises(ValueError, match=r"pos_embedding.*\(2, 4, 768\)"):
        load_torch_weights(model, reference().state_dict())
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(new, old)


def compact_reference(width, depth, num_heads, mlp_ratio, tokens, convolutions):
    """Write out CCT in PyTorch, on its own encoder layer."""
    import torch
    from torch import nn

    class Compact(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [3, *[64] * (convolutions - 1), width]
            parts = [
                [
                    nn.Conv2d(a, b, 3, padding=1, bias=False),
                    nn.ReLU(),
                    nn.MaxPool2d(3, 2, 1),
                ]
                for a, b in itertools.pairwise(sizes)
            ]
            self.tokenizer = nn.Sequential(*(x for part in parts for x in part))
            self.positions = nn.Parameter(torch.zeros(1, tokens, width))
            layer = nn.TransformerEncoderLayer(
                *(width, num_heads, mlp_ratio * width, 0.0, "gelu", 1e-6),
                batch_first=True,
                norm_first=True,
            )
            norm = nn.LayerNorm(width, 1e-6)
            self.encoder = nn.TransformerEncoder(
                layer, depth, norm, enable_nested_tensor=False
            )
            self.score = nn.Linear(width, 1)
            self.logits = nn.Linear(width, 10)

        def forward(self, x):
            x = self.tokenizer(x).flatten(2).transpose(1, 2) + self.positions
            x = self.encoder(x)
            shares = self.score(x).softmax(1).transpose(1, 2)
            return self.logits((shares @ x).squeeze(1))

    model = randomise(Compact())
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.self_attn.in_proj_bias.zero_()
    return model


@pytest.mark.parametrize(
    ("variant", "sizes", "grid"),
    [
        ("cct_2_3x2", (128, 2, 2, 1, 24, 2), (4, 6)),
        ("cct_7_3x1", (256, 7, 4, 2, 96, 1), (8, 12)),
    ],
)
def test_compact_form_equals_its_figure(variant, sizes, grid):
    pytest.importorskip("torch")
    expected_model = compact_reference(*sizes)
    model = vit((16, 24, 3), 10, variant=variant, optimizer=None)
    arrays = [
        array.numpy()
        for name, array in expected_model.state_dict().items()
        if not name.endswith("in_proj_bias")
    ]
    positions = arrays.pop(0).reshape(*grid, -1)  # a parameter of no module is first
    kernels = sizes[-1]
    arrays = [*arrays[:kernels], positions, *arrays[kernels:]]
    arrays = [x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for x in arrays]
    arrays = [x.T if x.ndim == 2 else x for x in arrays]
    # Torch's layer lists its norms last, ours each before its branch.
    block = 11
    order = [7, 8, 0, 1, 2, 9, 10, 3, 4, 5, 6]
    start = kernels + 1
    for first in range(start, start + block * sizes[1], block):
        arrays[first : first + block] = [arrays[first + i] for i in order]
    model.set_weights(arrays)
    batch = images(2, 16, 24, 3)
    expected = torch_logits(expected_model, batch)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(model, batch), expected, atol=1e-4, rtol=0)


def compact_parameters(width, depth, mlp_ratio, tokens, kernels):
    attention = 3 * width**2 + (width**2 + width)
    hidden = mlp_ratio * width
    network = (width * hidden + hidden) + (hidden * width + width)
    block = attention + network + 2 * 2 * width
    head = (width + 1) + (width * 10 + 10)
    return kernels + tokens * width + depth * block + 2 * width + head


@pytest.mark.parametrize(
    ("variant", "expected", "published"),
    [
        (
            "cct_2_3x2",
            compact_parameters(128, 2, 1, 64, 27 * 64 + 9 * 64 * 128),
            0.28,
        ),
        ("cct_7_3x1", compact_parameters(256, 7, 2, 256, 27 * 256), 3.76),
    ],
)
def test_compact_forms_have_the_published_size(variant, expected, published):
    with keras.StatelessScope(initialize_variables=False):
        model = vit((32, 32, 3), 10, variant=variant, optimizer=None)
    found = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert found == expected
    assert round(found / 1e6, 2) == published


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (33, 31)])
def test_compact_forms_take_any_size(size):
    model = vit((*size, 1), 3, variant="cct_2_3x2", depth=1, optimizer=None)
    grid = model.get_layer("positions").grid.shape
    assert tuple(grid[:2]) == tuple(-(-n // 4) for n in size)
    assert np.isfinite(logits(model, images(2, *size, 1))).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "positions"),
    [("token", "sinusoidal"), ("mean", "learned"), ("sequence", "sinusoidal")],
)
def test_every_pooling_learns_with_either_position(pooling, positions, tmp_path):
    options = {**TINY, "pooling": pooling, "positions": positions, "depth": 1}
    model = vit(
        (8, 8, 2),
        2,
        variant="vit_ti16",
        patch_size=4,
        **{**options, "optimizer": "adam", "learning_rate": 0.01},
    )
    batch, labels = images(8, 8, 8, 2), np.arange(8) % 2
    for _ in range(40):
        loss = model.train_on_batch(batch, labels)[0]
        model.reset_metrics()
    assert loss < 0.1
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits(again, batch), logits(model, batch))
    trained = {weight.path for weight in model.trainable_weights}
    assert ("positions/grid" in trained) == (positions == "learned")
    # Where nothing tells patches apart but their place, the place must.
    swapped = np.concatenate([batch[:, 4:], batch[:, :4]], axis=1)
    assert np.abs(logits(model, swapped) - logits(model, batch)).max() > 1e-3


def test_stochastic_depth_grows_with_depth_and_is_off_at_inference():
    options = {**TINY, "variant": "deit_ti16", "patch_size": 4, "depth": 5}
    model = vit((8, 8, 3), 3, stochastic_depth=0.4, **options)
    drops = [x for x in model.layers if isinstance(x, StochasticDepth)]
    rates = [drop.rate for drop in drops]
    np.testing.assert_allclose(rates, np.repeat([0, 0.1, 0.2, 0.3, 0.4], 2))
    plain = vit((8, 8, 3), 3, stochastic_depth=0.0, **options)
    plain.set_weights(values(model))
    batch = images(4, 8, 8, 3)
    np.testing.assert_array_equal(logits(model, batch), logits(plain, batch))
    trained = [ops.convert_to_numpy(m(batch, training=True)) for m in (model, plain)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-4


def test_positions_fit_another_image_size():
    """A smooth image twice as large, in patches twice as many, is seen alike."""
    options = {**TINY, "variant": "vit_ti16", "patch_size": 2, "pooling": "mean"}
    model = vit((16, 16, 1), 3, **options)
    large = vit((32, 24, 1), 3, **options)
    smooth = 2 + np.sin(np.linspace(0, 3, 8))[:, None] + np.cos(np.linspace(0, 2, 8))
    model.get_layer("positions").grid.assign(smooth[..., None] * np.linspace(-1, 1, 16))
    weights = {
        weight.path: ops.convert_to_numpy(weight.value) for weight in model.weights
    }
    grid = weights["positions/grid"]
    weights["positions/grid"] = resize_positions(grid, (16, 12))
    for weight in large.weights:
        weight.assign(weights[weight.path])
    small_batch = np.tile(images(3, 1, 1, 1), (1, 16, 16, 1))
    large_batch = np.tile(small_batch[:, :1, :1], (1, 32, 24, 1))
    expected, found = logits(model, small_batch), logits(large, large_batch)
    spread = np.ptp(expected)
    np.testing.assert_allclose(found, expected, atol=0.02 * spread)


def test_a_bundle_is_reloaded_at_another_image_size(tmp_path):
    arguments = {**TINY, "variant": "vit_ti16", "patch_size": 2}
    arguments |= {"input_shape": (8, 8, 1), "num_classes": 3}
    model = vit(**arguments)
    predictor = Classifier(model, ArrayEncoder("image", (8, 8, 1)), ("a", "b", "c"))
    folder = save_bundle(
        tmp_path / "bundle",
        predictor,
        builder="vit",
        arguments=arguments,
        metrics={},
        card="",
        keras_copy=False,
    )
    large = load(folder, input_shape=(12, 16, 1))
    grid, found = (
        ops.convert_to_numpy(m.get_layer("positions").grid)
        for m in (model, large.model)
    )
    np.testing.assert_allclose(found, resize_positions(grid, (6, 8)), atol=1e-6)
    assert large.answers(np.ones((2, 12, 16, 1))).shape == (2, 3)
    same = load(folder, input_shape=(8, 8, 1))
    image = np.ones((1, 8, 8, 1))
    np.testing.assert_allclose(same.answers(image), predictor.answers(image), atol=1e-6)
    with pytest.raises(InputError, match=r"shape \(1, 8, 8, 1\); give \(count, 12, 16"):
        large.answers(image)
    with pytest.raises(InputError, match="input_shape=5; give a shape"):
        load(folder, input_shape=5)
    with pytest.raises(InputError, match="divisible"):
        load(folder, input_shape=(9, 8, 1))


@pytest.mark.parametrize("side", [0, 1])
def test_patches_must_divide_the_image(side):
    shape = [32, 32, 3]
    shape[side] = 24
    with pytest.raises(ValueError, match=r"input_shape=\(.*24.*patch_size=16"):
        vit(tuple(shape), variant="vit_ti16")
    shape[side] = 16
    model = vit(tuple(shape), 2, variant="vit_ti16", depth=1, optimizer=None)
    assert model.get_layer("positions").grid.shape[side] == 1
