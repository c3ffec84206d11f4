"""Layers: code that owns weights, randomness or training-dependent behaviour."""

from kerasdl.layers.attention import PositionEmbedding, SelfAttention
from kerasdl.layers.recurrent import GRU, LSTM
from kerasdl.layers.text import Blend, NgramBag, WordDropout
from kerasdl.layers.vision import StochasticDepth

__all__ = [
    "GRU",
    "LSTM",
    "Blend",
    "NgramBag",
    "PositionEmbedding",
    "SelfAttention",
    "StochasticDepth",
    "WordDropout",
]
