"""Pretrained models: the same numbers as their originals, and nothing unsafe."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from published import ANT, BEE, MOBILENET_V2, PUBLISHED, tensorflow_logits
from references import settled, torch_logits, torchvision

import kerasdl
from kerasdl.backend import forward
from kerasdl.bundle import save_bundle
from kerasdl.data.images import ImageEncoder
from kerasdl.errors import InputError
from kerasdl.models import densenet, resnet, vit
from kerasdl.models.pretrained import BACKBONES, keras_hub, pretrained_classifier
from kerasdl.predict import Classifier
from kerasdl.pretrained import TIMM, Pretrained, open_pretrained, put_weights

SHAPE = (32, 32, 3)
ENCODER = ImageEncoder(SHAPE[:2], 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.25))
VIT = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
# Settings of a small network of each class.
TINY = {
    "CSPNetBackbone": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 2,
        "stackwise_depth": [1],
        "stackwise_strides": [2],
        "stackwise_num_filters": [8],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "DeiTBackbone": {**VIT, "intermediate_dim": 16},
    "DenseNetBackbone": {"stackwise_num_repeats": [1, 1], "growth_rate": 4},
    "EfficientNetBackbone": {
        "stackwise_width_coefficients": [1.0] * 2,
        "stackwise_depth_coefficients": [1.0] * 2,
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 1],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 16],
        "stackwise_expansion_ratios": [1, 2],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["v1", "unfused"],
        "num_features": 16,
    },
    "MobileNetBackbone": {
        "stackwise_expansion": [[16]],
        "stackwise_num_blocks": [1],
        "stackwise_num_filters": [[8]],
        "stackwise_kernel_size": [[3]],
        "stackwise_num_strides": [[2]],
        "stackwise_se_ratio": [[0.25]],
        "stackwise_activation": [["relu"]],
        "stackwise_padding": [[1]],
        "output_num_filters": 16,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 16,
    },
    "ResNetBackbone": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [3],
        "stackwise_num_filters": [64],
        "stackwise_num_blocks": [1],
        "stackwise_num_strides": [1],
        "block_type": "basic_block",
    },
    "VGGBackbone": {"stackwise_num_repeats": [1], "stackwise_num_filters": [8]},
    "ViTBackbone": {**VIT, "mlp_dim": 16},
    "XceptionBackbone": {
        "stackwise_conv_filters": [[8, 8]],
        "stackwise_pooling": [False],
    },
}


def images(count=2, size=32):
    return (
        np.random.default_rng(0).normal(size=(count, size, size, 3)).astype("float32")
    )


def pixels(count=4):
    shape = (count, *SHAPE)
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def values(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


def write_bundle(folder, model, builder, arguments):
    predictor = Classifier(model, ENCODER, ["a", "b", "c"])
    save_bundle(
        folder,
        predictor,
        builder=builder,
        arguments=arguments,
        metrics={},
        card="",
        keras_copy=False,
    )
    return predictor


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_rebuilt_from_a_bundle(name, tmp_path):
    arguments = {
        "input_shape": list(SHAPE),
        "num_classes": 3,
        "backbone": name,
        "config": TINY[name],
    }
    model = pretrained_classifier(**arguments, optimizer=None)
    assert model.output_shape == (None, 3)
    assert model.output.dtype == "float32"
    predictor = write_bundle(tmp_path / "b", model, "pretrained_classifier", arguments)
    loaded = kerasdl.load(tmp_path / "b")
    np.testing.assert_allclose(
        loaded.answers(pixels()), predictor.answers(pixels()), atol=1e-6
    )


def test_pooling_is_what_it_says():
    def build(name, pooling):
        return pretrained_classifier(
            SHAPE,
            2,
            backbone=name,
            config=TINY[name],
            pooling=pooling,
            optimizer=None,
        )

    for name, pooling, pool in (
        ("VGGBackbone", "avg", lambda x: x.mean(axis=(1, 2))),
        ("VGGBackbone", "max", lambda x: x.max(axis=(1, 2))),
        ("ViTBackbone", "avg", lambda x: x.mean(axis=1)),
        ("ViTBackbone", "token", lambda x: x[:, 0]),
    ):
        model = build(name, pooling)
        pooled = keras.Model(model.input, model.get_layer("logits").input)
        maps = forward(model.get_layer("backbone"))(images())
        np.testing.assert_allclose(forward(pooled)(images()), pool(maps), atol=1e-5)
    with pytest.raises(ValueError, match="makes maps, not tokens"):
        build("VGGBackbone", "token")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "VGBackbone"}, "did you mean 'VGGBackbone'"),
        ({"backbone": "GemmaBackbone"}, "backbone='GemmaBackbone'; expected one of"),
        ({"config": 3}, "config=3"),
        ({"config": {"stackwise_num_repeats": [1]}}, "'stackwise_num_filters' is miss"),
        ({"config": {**TINY["VGGBackbone"], "layers": 3}}, "config='layers'; expected"),
        ({"config": {**TINY["VGGBackbone"], "name": "x"}}, "config='name'; expected"),
        ({"config": {**TINY["VGGBackbone"], "dtype": "int8"}}, "config='dtype'"),
        ({"config": {"stackwise_num_filters": [float("nan")]}}, "nan"),
        (
            {"config": {"stackwise_num_filters": [{"class_name": "Lambda"}]}},
            "Lambda.*; expected a number, a string or a list",
        ),
        ({"pooling": "sum"}, "pooling='sum'"),
        ({"dropout": 1}, "dropout=1"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"input_shape": (32, 32)}, "input_shape="),
    ],
)
def test_what_is_no_plain_setting_of_a_listed_class_is_refused(change, message):
    arguments = {
        "input_shape": SHAPE,
        "num_classes": 2,
        "backbone": "VGGBackbone",
        "config": TINY["VGGBackbone"],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        pretrained_classifier(**arguments)


# The real thing.


def test_mobilenet_is_that_of_torchvision():
    models = torchvision().models
    import torch

    module = models.mobilenet_v2()
    state = {name: torch.tensor(x) for name, x in MOBILENET_V2.state().items()}
    module.load_state_dict(state, strict=False)  # all but the counts of batches
    batch = images(size=96)
    features = forward(MOBILENET_V2.backbone(96))(batch).mean(axis=(1, 2))
    np.testing.assert_allclose(
        MOBILENET_V2.logits(features), torch_logits(module.eval(), batch), atol=1e-4
    )


def test_efficientnet_lite_is_what_tensorflow_computes():
    published = PUBLISHED["efficientnet_lite0"]
    batch = images(size=64)
    features = forward(published.backbone(64))(batch).mean(axis=(1, 2))
    expected = tensorflow_logits(published.state(), batch)
    np.testing.assert_allclose(published.logits(features), expected, atol=1e-4)


def photos(count):
    folder = Path(os.environ.get("KERASDL_TEST_DATA", "")) / "photos/hymenoptera/val"
    if not folder.is_dir():
        pytest.skip("KERASDL_TEST_DATA has no photos/hymenoptera")
    found = [sorted((folder / name).iterdir())[:count] for name in ("ants", "bees")]
    return found[0] + found[1], np.repeat([0, 1], count)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_know_ants_from_bees(name, tmp_path):
    files, labels = photos(12)
    published = PUBLISHED[name]
    opened = open_pretrained(published.save(tmp_path / name))
    assert opened.encoder.size == (224, 224)
    np.testing.assert_allclose(opened.encoder.mean, published.mean, atol=1e-6)
    np.testing.assert_allclose(opened.encoder.std, published.std, atol=1e-6)
    model = opened.build(2)
    pooled = keras.Model(model.input, model.get_layer("logits").input)
    encoded = opened.encoder.encode(opened.encoder.check(files))["image"].pad(0)
    logits = published.logits(forward(pooled)(encoded))
    assert np.mean(logits[:, [ANT, BEE]].argmax(axis=1) == labels) >= 0.8
    assert np.mean(np.array([ANT, BEE])[labels] == logits.argmax(axis=1)) >= 0.5


# Folders.


def test_a_preset_folder_is_read_with_its_preparation(tmp_path):
    hub = keras_hub()
    settings = {**TINY["VGGBackbone"], "image_shape": (None, None, 3)}
    backbone = hub.models.VGGBackbone(**settings)
    backbone.save_to_preset(str(tmp_path))
    hub.layers.VGGImageConverter(
        image_size=(24, 32), scale=1 / 127.5, offset=-1, interpolation="bicubic"
    ).save_to_preset(str(tmp_path))
    opened = open_pretrained(tmp_path)
    assert opened.encoder == ImageEncoder(
        (24, 32), 3, (0.5,) * 3, (0.5,) * 3, crop=0.875, interpolation="bicubic"
    )
    assert json.loads(json.dumps(opened.arguments)) == opened.arguments
    model = opened.build(5)
    assert model.output_shape == (None, 5)
    batch = images()[:, :24]
    np.testing.assert_allclose(
        forward(model.get_layer("backbone"))(batch), forward(backbone)(batch), atol=1e-5
    )


def write_timm(folder, architecture, state, **settings):
    config = {
        "architecture": architecture,
        "num_classes": 7,
        "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "input_size": [3, 64, 64],
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            **settings,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    safetensors.numpy.save_file(state, folder / "model.safetensors")


def test_a_timm_folder_becomes_a_network_of_ours(tmp_path):
    models = torchvision().models
    module = settled(models.resnet18(num_classes=7), images(8, 64))
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    write_timm(tmp_path, "resnet18", state)
    opened = open_pretrained(tmp_path)
    assert (opened.builder, opened.arguments["variant"]) == ("resnet", "resnet18")
    assert opened.encoder == ImageEncoder(
        (64, 64), 3, (0.5,) * 3, (0.25,) * 3, crop=0.875, interpolation="bicubic"
    )
    model = opened.build(2)
    pooled = keras.Model(model.input, model.get_layer("logits").input)
    logits = forward(pooled)(images(2, 64)) @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(logits, torch_logits(module, images(2, 64)), atol=1e-3)


def test_weights_of_another_network_are_refused_in_one_sentence(tmp_path):
    write_timm(tmp_path, "resnet18", {"conv1.weight": np.zeros((64, 3, 7, 7), "f4")})
    with pytest.raises(InputError, match=r"model.safetensors cannot be .* as resnet18"):
        open_pretrained(tmp_path)


def test_the_names_of_timm_are_variants_of_ours():
    import re

    known = {"resnet": resnet, "densenet": densenet, "vit": vit}
    for name in (
        *("resnet18", "resnet152", "densenet121", "vit_tiny_patch16_224"),
        *("vit_small_patch32_384", "vit_large_patch16_224", "deit_base_patch16_224"),
    ):
        (pattern,) = (pattern for pattern in TIMM if re.fullmatch(pattern, name))
        builder, variant = TIMM[pattern]
        groups = re.fullmatch(pattern, name).groups()
        assert variant(*groups) in known[builder].VARIANTS
    for name in ("resnet50d", "vit_base_patch16_clip_224", "efficientnet_b0"):
        assert not any(re.fullmatch(pattern, name) for pattern in TIMM)


ARGUMENTS = {"variant": "resnet20", "width": 2, "input_shape": list(SHAPE)}


def test_a_bundle_gives_all_but_its_logits(tmp_path):
    model = kerasdl.resnet(**ARGUMENTS, num_classes=3, optimizer=None)
    write_bundle(tmp_path / "b", model, "resnet", {**ARGUMENTS, "num_classes": 3})
    opened = open_pretrained(tmp_path / "b")
    assert (opened.builder, opened.arguments) == ("resnet", ARGUMENTS)
    assert opened.encoder == ENCODER
    built, before = values(opened.build(4)), values(model)
    assert built.pop("logits/kernel").shape == (8, 4)
    assert built.pop("logits/bias").shape == (4,)
    assert {*before} - {*built} == {"logits/kernel", "logits/bias"}
    for path, value in built.items():
        np.testing.assert_array_equal(value, before[path])


def test_another_size_keeps_the_weights_and_fits_the_positions():
    arguments = {
        "input_shape": [32, 32, 3],
        "patch_size": 8,
        "width": 8,
        "depth": 1,
        "num_heads": 2,
    }
    model = kerasdl.vit(**arguments, num_classes=2, optimizer=None)
    body = {n: v for n, v in values(model).items() if not n.startswith("logits")}
    opened = Pretrained("vit", arguments, body, ENCODER).resized(48)
    assert opened.encoder.size == (48, 48)
    larger = values(opened.build(2))
    assert larger["positions/grid"].shape[:2] == (6, 6)
    np.testing.assert_array_equal(larger["patches/kernel"], body["patches/kernel"])
    assert opened.resized((16, 8)).arguments["input_shape"] == [16, 8, 3]


def test_weights_that_do_not_fit_leave_the_model_as_it_was():
    model = kerasdl.resnet(**ARGUMENTS, num_classes=3, optimizer=None)
    before = values(model)
    others = {name: value + 1 for name, value in before.items()}
    for weights, message in (
        (
            {**others, "stem_conv/kernel": np.zeros((1, 2))},
            r"'stem_conv/kernel' is \(1",
        ),
        ({n: v for n, v in others.items() if n != "stem_norm/beta"}, "stem_norm/beta"),
    ):
        with pytest.raises(InputError, match=message):
            put_weights(model, weights)
        for path, value in values(model).items():
            np.testing.assert_array_equal(value, before[path])


# What is not there, or not what it says.


def refused(source, *words):
    with pytest.raises(InputError) as caught:
        open_pretrained(source)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_unknown_names_are_refused_with_the_nearest():
    refused("resnet_18_imagnet", "'resnet_18_imagnet'", "mean 'resnet_18_imagenet'?")
    refused("kaggle://somebody/model", "no preset of that name")


def test_a_preset_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def fail(name):
        raise ConnectionError(f"no route to {name}\nand a long story")

    monkeypatch.setattr(keras_hub().models.Backbone, "from_preset", fail)
    refused("resnet_18_imagenet", "no route to resnet_18_imagenet", "a local folder")


def test_folders_that_hold_something_else_are_refused(tmp_path):
    refused(tmp_path, "config.json is missing")
    config = tmp_path / "config.json"
    for content, word in (
        ("{", "is no JSON"),
        ("[]", "no JSON object"),
        ("{}", "not of KerasHub"),
        ('{"class_name": "VGGBackbone"}', "no settings"),
        ('{"model_type": "nonsense"}', "KerasHub cannot open"),
        ('{"architecture": "swin_tiny"}', "KerasHub cannot open"),
        ('{"architecture": "resnet18"}', "model.safetensors cannot be read"),
    ):
        config.write_text(content)
        refused(tmp_path, str(tmp_path), word)


def test_a_hostile_folder_runs_nothing(tmp_path):
    evil = {
        "module": "builtins",
        "class_name": "eval",
        "config": {"source": "1"},
        "registered_name": "builtins>eval",
    }
    for settings, word in (
        (evil, "backbone='eval'"),
        ({**evil, "class_name": "VGGBackbone"}, "config='source'"),
        (
            {
                "class_name": "VGGBackbone",
                "config": {**TINY["VGGBackbone"], "stackwise_num_filters": [evil]},
            },
            "expected a number",
        ),
        ({"class_name": "VGGBackbone", "config": TINY["VGGBackbone"]}, "weights.h5"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        refused(tmp_path, str(tmp_path), word)


def test_a_bundle_for_texts_is_refused():
    refused("sentiment-imdb", "takes no images")
