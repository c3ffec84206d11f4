"""The loop in raw PyTorch: eager, channels last, fused attention and AdamW."""

import copy

import torch
from photos import PHOTO_SIDE, pillow_photo
from torch.nn import functional

EPSILON, NORM_EPSILON, MOMENTUM = 1e-6, 1e-5, 0.1


class Operations:
    """What the networks are made of; images are `(batch, channels, h, w)`.

    Attributes:
        training: Whether batch norms have their statistics from the batch.
    """

    def __init__(self):
        self.weights, self.modules = {}, {}
        self.training = True

    def weight(self, name, *shape, mean=0.0, deviation=None):
        """Return a weight, made on the first pass."""
        if name not in self.weights:
            fan_in = shape[1] if len(shape) > 1 else 1
            deviation = fan_in**-0.5 if deviation is None else deviation
            values = mean + deviation * torch.randn(*shape)
            if len(shape) == 4:
                values = values.to(memory_format=torch.channels_last)
            self.weights[name] = torch.nn.Parameter(values)
        return self.weights[name]

    def dense(self, name, x, units):
        """Return a linear map of the last axis."""
        kernel = self.weight(f"{name}.kernel", units, x.shape[-1])
        return functional.linear(x, kernel, self.bias(name, units))

    def bias(self, name, units):
        """Return a bias."""
        return self.weight(f"{name}.bias", units, deviation=0.0)

    relu = staticmethod(functional.relu)
    gelu = staticmethod(functional.gelu)

    def channels(self, x):
        """Return the number of channels."""
        return x.shape[1]

    def conv(self, name, x, filters, size, strides):
        """Convolve without a bias."""
        shape = filters, x.shape[1], size, size
        kernel = self.weight(
            f"{name}.kernel", *shape, deviation=(x.shape[1] * size * size / 2) ** -0.5
        )
        return functional.conv2d(x, kernel, None, strides, size // 2)

    def batch_norm(self, name, x):
        """Normalise over the batch, and keep moving statistics."""
        count = x.shape[1]
        scale = self.weight(f"{name}.scale", count, mean=1.0, deviation=0.0)
        if name not in self.modules:
            self.modules[name] = torch.zeros(count), torch.ones(count)
        return functional.batch_norm(
            x,
            *self.modules[name],
            scale,
            self.bias(name, count),
            self.training,
            MOMENTUM,
            NORM_EPSILON,
        )

    def layer_norm(self, name, x):
        """Normalise over the last axis."""
        width = x.shape[-1]
        scale = self.weight(f"{name}.scale", width, mean=1.0, deviation=0.0)
        return functional.layer_norm(
            x, (width,), scale, self.bias(name, width), EPSILON
        )

    def max_pool(self, x):
        """Halve height and width."""
        return functional.max_pool2d(x, 3, 2, 1)

    def mean_image(self, x):
        """Average over the places."""
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def subsample_and_pad(self, x, strides, added):
        """Make a shortcut without weights."""
        half = added // 2
        return functional.pad(
            x[:, :, ::strides, ::strides], (0, 0, 0, 0, half, added - half)
        )

    def embed(self, name, tokens, vocabulary, width):
        """Look tokens up."""
        table = self.weight(f"{name}.table", vocabulary, width, deviation=0.02)
        return functional.embedding(tokens, table)

    def sinusoids(self, tokens, width):
        """Return the positions `(length, width)`."""
        if "sinusoids" not in self.modules:
            places = torch.arange(tokens.shape[1])[:, None]
            angles = places * 1e4 ** (-torch.arange(width // 2) / (width // 2))
            self.modules["sinusoids"] = torch.cat([angles.sin(), angles.cos()], 1)
        return self.modules["sinusoids"]

    def max_and_mean(self, x):
        """Pool over the positions."""
        return torch.cat([x.amax(1), x.mean(1)], 1)

    def bilstm(self, name, x, units):
        """Return the last state in each direction."""
        if name not in self.modules:
            lstm = torch.nn.LSTM(
                x.shape[-1], units, batch_first=True, bidirectional=True
            )
            self.modules[name] = lstm
            self.weights |= dict(lstm.named_parameters(prefix=name))
        _, (states, _) = self.modules[name](x)
        return torch.cat([states[0], states[1]], 1)

    def attention(self, qkv, heads):
        """Mix values over the positions."""
        batch, length, width = qkv.shape
        parts = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts)
        return mixed.transpose(1, 2).reshape(batch, length, width // 3)

    def patches(self, name, x, width, size):
        """Turn an image into tokens."""
        kernel = self.weight(
            f"{name}.kernel", width, x.shape[1], size, size, deviation=0.02
        )
        x = functional.conv2d(x, kernel, self.bias(name, width), size)
        return x.flatten(2).transpose(1, 2)

    def with_class_token(self, name, x):
        """Put a learned token in front, and add learned positions."""
        batch, length, width = x.shape
        token = self.weight(f"{name}.token", 1, 1, width, deviation=0.02)
        places = self.weight(f"{name}.places", 1, length + 1, width, deviation=0.02)
        return torch.cat([token.expand(batch, -1, -1), x], 1) + places


def make(network, x, y, *, batch, rate):
    """Return the loops by name, each a function of the rows of its batches.

    Args:
        network: Function of `Operations` and a batch to logits.
        x: All inputs, a NumPy array or the paths of photos.
        y: Their classes.
        batch: Rows of a first batch.
        rate: Learning rate.

    Returns:
        The loops, and the number of weights that are trained.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    feed = (_photos if isinstance(x, list) else _rows)(x, y, device)
    o = Operations()
    (first, _), *_ = feed([batch])
    with torch.device(device):
        network(o, first)
    # torch.nn.LSTM adds up two biases.
    trained = [w for name, w in o.weights.items() if "bias_hh" not in name]
    loops = {}
    for name in ("eager", "compiled"):
        own = copy.deepcopy(o)

        def apply(inputs, own=own):
            return network(own, inputs)

        if name == "compiled":
            apply = torch.compile(apply)
        optimizer = torch.optim.AdamW(own.weights.values(), rate, fused=True)
        loops[name] = _loop(apply, optimizer, feed)
    return loops, sum(weight.numel() for weight in trained)


def _layout(x):
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def _rows(x, y, device):
    """Return what yields the batches of an order, of data on the device."""
    x, y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)

    def feed(order):
        for batch in order:
            rows = torch.from_numpy(batch).to(device)
            yield _layout(x[rows]), y[rows]

    return feed


def _photos(paths, y, device):
    """Return the same of files, read in two processes that stay."""

    class Files(torch.utils.data.Dataset):
        def __getitem__(self, row):
            return pillow_photo(paths[row], PHOTO_SIDE), y[row]

    order = []
    loader = torch.utils.data.DataLoader(
        Files(), batch_sampler=order, num_workers=2, persistent_workers=True
    )

    def feed(wanted):
        order[:] = wanted
        for x, y in loader:
            yield _layout(x.to(device)), y.to(device)

    return feed


def _loop(apply, optimizer, feed):
    def run(order):
        for x, y in feed(order):
            optimizer.zero_grad()
            loss = functional.cross_entropy(apply(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def make_forward(network, x):
    """Return a function of NumPy inputs to logits, in inference mode.

    Args:
        network: As of `make`.
        x: Inputs of any number.
    """
    o = Operations()

    def forward(x):
        with torch.inference_mode():
            return network(o, _layout(torch.from_numpy(x))).numpy()

    forward(x)  # makes the weights
    o.training = False
    return forward
