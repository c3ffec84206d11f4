"""Layers: code that owns weights, randomness or training-dependent behaviour."""

from kerasdl.layers.attention import PositionEmbedding, SelfAttention
from kerasdl.layers.augment import (
    ColorJitter,
    MixImages,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
)
from kerasdl.layers.fused import (
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPooling2D,
)
from kerasdl.layers.recurrent import GRU, LSTM
from kerasdl.layers.table import Standardize
from kerasdl.layers.text import Blend, NgramBag, WordDropout
from kerasdl.layers.trivial import RandAugment, TrivialAugmentWide
from kerasdl.layers.vision import (
    AdaptiveAveragePooling,
    ClassToken,
    GridPositions,
    StochasticDepth,
    resize_positions,
)

__all__ = [
    "GRU",
    "LSTM",
    "AdaptiveAveragePooling",
    "BatchNormalization",
    "Blend",
    "ClassToken",
    "ColorJitter",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "GridPositions",
    "MaxPooling2D",
    "MixImages",
    "NgramBag",
    "PositionEmbedding",
    "RandAugment",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomShift",
    "SelfAttention",
    "Standardize",
    "StochasticDepth",
    "TrivialAugmentWide",
    "WordDropout",
    "resize_positions",
]
