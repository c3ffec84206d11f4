"""Recurrent layers that run through the backend's fused kernels."""

import keras

from kerasdl import backend


class _Fused:
    """Let the backend's fused kernel, where it has one, run an LSTM or GRU."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if isinstance(mask, list | tuple):
            mask = mask[0]
        fused = backend.recurrent(self, sequences, initial_state, mask, training)
        if fused is not None:
            return fused
        return super().inner_loop(sequences, initial_state, mask, training=training)


@keras.saving.register_keras_serializable(package="kerasdl")
class LSTM(_Fused, keras.layers.LSTM):
    """`keras.layers.LSTM`, as quick on PyTorch as `torch.nn.LSTM`.

    Arguments, weights and results are those of Keras; the fused kernel serves the
    standard cell and right-padded masks, Keras's own loop the rest.

    Example:
        >>> LSTM(8).compute_output_shape((2, 5, 3))
        (2, 8)

    Reference:
        [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735).
    """


@keras.saving.register_keras_serializable(package="kerasdl")
class GRU(_Fused, keras.layers.GRU):
    """`keras.layers.GRU`, as quick on PyTorch as `torch.nn.GRU`.

    Arguments, weights and results are those of Keras; the fused kernel serves the
    standard cell and right-padded masks, Keras's own loop the rest.

    Example:
        >>> GRU(8).compute_output_shape((2, 5, 3))
        (2, 8)

    Reference:
        [Learning Phrase Representations using RNN
        Encoder-Decoder](https://arxiv.org/abs/1406.1078), the variant of cuDNN.
    """
