"""Layers: code that owns weights, randomness or training-dependent behaviour."""

from kerasdl.layers.attention import PositionEmbedding, SelfAttention
from kerasdl.layers.recurrent import GRU, LSTM
from kerasdl.layers.table import Standardize
from kerasdl.layers.text import Blend, NgramBag, WordDropout
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
    "Blend",
    "ClassToken",
    "GridPositions",
    "NgramBag",
    "PositionEmbedding",
    "SelfAttention",
    "Standardize",
    "StochasticDepth",
    "WordDropout",
    "resize_positions",
]
