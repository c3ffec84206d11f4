"""LSTM and GRU on PyTorch by its own kernels.

Keras runs them as a Python loop, save on CUDA without a mask; `recurrent` runs the
standard ones through `torch.nn`'s.
"""

import keras
import torch

from kerasdl.backend.torch_traces import decide


def recurrent(layer, sequences, initial_state, mask, training):
    """Run a Keras LSTM or GRU layer through PyTorch's fused kernel.

    Outputs, states and gradients are those of Keras. With a mask the kernel runs over
    the padding too, several times faster than over packed sequences, and the outputs
    are then picked from the valid steps.

    Args:
        layer: A built `keras.layers.LSTM` or `keras.layers.GRU`.
        sequences: Tensor `(batch, time, features)`.
        initial_state: List of tensors `(batch, units)`: `[h, c]`, or `[h]` for a GRU.
        mask: None or boolean tensor `(batch, time)`, True where a step is valid.
        training: Whether input dropout applies.

    Returns:
        `(last_output, outputs, states)` as `keras.layers.RNN.inner_loop` returns them
        (where only the last output is asked for, `outputs` may be that alone), or None
        where the kernel cannot stand in for Keras: a non-standard cell, a mask
        that is not right-padded, or code that is being traced.
    """
    if not _is_standard(layer) or _is_traced(sequences):
        return None
    padding = None
    if mask is not None and not decide(mask.all()):
        padding = _Padding(mask, layer.go_backwards)
        if not padding.is_right:
            return None
    cell = layer.cell
    if training and cell.dropout:
        sequences = sequences * cell.get_dropout_mask(sequences[:, 0])[:, None]
    weights = _weights(cell)
    sequences = sequences.to(weights[0].dtype)

    if padding is None:
        if layer.go_backwards:
            sequences = sequences.flip(1)
        outputs, states = _run(sequences, initial_state, weights)
        return states[0], outputs, states

    sequences = padding.to_front(sequences)
    if len(initial_state) == 2 and layer.return_state:
        sequences, weights[0] = _hold_carry(sequences, weights[0], padding.valid)
    outputs, states = _run(sequences, initial_state, weights)
    states[0] = padding.last(outputs, otherwise=initial_state[0])
    return *padding.results(outputs, layer), states


def _is_standard(layer) -> bool:
    cell = layer.cell
    return (
        cell.activation is keras.activations.tanh
        and cell.recurrent_activation is keras.activations.sigmoid
        and cell.use_bias
        and cell.implementation == 2
        and getattr(cell, "reset_after", True)
        and not cell.recurrent_dropout
        and not layer.stateful
        and not layer.unroll
        and layer.use_cudnn is not False
    )


def _is_traced(tensor) -> bool:
    return tensor.is_meta or torch.jit.is_tracing() or torch.compiler.is_compiling()


def _weights(cell) -> list[torch.Tensor]:
    """Return Keras's weights in PyTorch's layout: two kernels, then two biases."""
    weights = [
        keras.ops.convert_to_tensor(weight)
        for weight in (cell.kernel, cell.recurrent_kernel, cell.bias)
    ]
    if isinstance(cell, keras.layers.GRUCell):
        weights = [_swap_first_gates(weight) for weight in weights]
        kernel, recurrent_kernel, (bias, recurrent_bias) = weights
    else:
        kernel, recurrent_kernel, bias = weights
        recurrent_bias = torch.zeros_like(bias)
    return [kernel.T, recurrent_kernel.T, bias, recurrent_bias]


def _swap_first_gates(weight):
    """Turn a GRU's update, reset, new into PyTorch's reset, update, new."""
    update, reset, new = weight.chunk(3, dim=-1)
    return torch.cat([reset, update, new], dim=-1)


def _run(sequences, initial_state, weights):
    states = [state[None].to(sequences.dtype) for state in initial_state]
    has_biases, layers, dropout, bidirectional, batch_first = True, 1, 0.0, False, True
    kernel, state = (torch.lstm, states) if len(states) == 2 else (torch.gru, states[0])
    outputs, *states = kernel(
        sequences,
        state,
        weights,
        has_biases,
        layers,
        dropout,
        torch.is_grad_enabled(),
        bidirectional,
        batch_first,
    )
    return outputs, [state[0] for state in states]


def _hold_carry(sequences, kernel, valid):
    """Make padding keep an LSTM's carry, which PyTorch returns only for the last step.

    One more feature, 1 at padding, shuts the input gate and opens the forget gate.
    """
    padding = (~valid).to(sequences.dtype)[..., None]
    units = kernel.shape[0] // 4
    gates = kernel.new_tensor([-1e4, 1e4, 0.0, 0.0]).repeat_interleave(units)
    return torch.cat([sequences, padding], 2), torch.cat([kernel, gates[:, None]], 1)


class _Padding:
    """Which steps of a batch are valid, and where its results belong.

    The kernel must see the valid steps first. Keras, going backwards, reverses the
    padding along with the sequence, so its results come last.
    """

    def __init__(self, mask, go_backwards):
        mask = mask.bool()
        time = mask.shape[1]
        self.steps = torch.arange(time, device=mask.device)[None]
        self.lengths = mask.sum(1, keepdim=True)
        self.valid = self.steps < self.lengths
        self.is_right = decide((self.valid == mask).all())
        self.go_backwards = go_backwards

    def to_front(self, sequences):
        if not self.go_backwards:
            return sequences
        reverse = self.lengths - 1 - self.steps
        return _take(sequences, torch.where(self.valid, reverse, self.steps))

    def last(self, outputs, otherwise):
        places = torch.arange(len(outputs), device=outputs.device)
        last = outputs[places, (self.lengths[:, 0] - 1).clamp(min=0)]
        return torch.where(self.lengths > 0, last, otherwise)

    def results(self, outputs, layer):
        """Return the last output, and all, if the layer returns them."""
        if layer.return_sequences or layer.zero_output_for_mask:
            outputs = self.restore(outputs, layer.zero_output_for_mask)
            return outputs[:, -1], outputs
        last = self.last(outputs, otherwise=outputs.new_zeros(()))
        return last, last[:, None]

    def restore(self, outputs, zero_padding):
        time = outputs.shape[1]
        source = self.steps
        if self.go_backwards:
            source = source - (time - self.lengths)
        is_known = (source >= 0) & (self.lengths > 0)
        if zero_padding:
            is_known &= source < self.lengths
        last = (self.lengths - 1).clamp(min=0)
        outputs = _take(outputs, source.minimum(last).clamp(min=0))
        return torch.where(is_known[..., None], outputs, 0.0)


def _take(sequences, steps):
    """Return some steps `(batch, count)` of each sequence, by whole rows."""
    batch, time, width = sequences.shape
    starts = time * torch.arange(batch, device=steps.device)[:, None]
    rows = sequences.reshape(-1, width).index_select(0, (starts + steps).flatten())
    return rows.view(batch, -1, width)
