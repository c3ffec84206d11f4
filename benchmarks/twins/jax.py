"""The loop in raw JAX: one jitted step, its buffers donated."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from photos import PHOTO_SIDE, pillow_photo

EPSILON, NORM_EPSILON, MOMENTUM = 1e-6, 1e-5, 0.1
BETA_1, BETA_2, DECAY, SMALL = 0.9, 0.999, 0.01, 1e-8
# Of photos, read while the device computes.
BATCHES_AHEAD = 4


class Operations:
    """What the networks are made of; images are `(batch, h, w, channels)`."""

    def __init__(self, weights, moving):
        self.weights, self.moving = weights, moving

    def weight(self, name, *shape, mean=0.0, deviation=None):
        """Return a weight, made on the first pass."""
        if name not in self.weights:
            fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1
            deviation = fan_in**-0.5 if deviation is None else deviation
            values = mean + deviation * np.random.default_rng(0).normal(size=shape)
            self.weights[name] = jnp.asarray(values, "float32")
        return self.weights[name]

    def bias(self, name, units):
        """Return a bias."""
        return self.weight(f"{name}.bias", units, deviation=0.0)

    def dense(self, name, x, units):
        """Return a linear map of the last axis."""
        return x @ self.weight(f"{name}.kernel", x.shape[-1], units) + self.bias(
            name, units
        )

    relu = staticmethod(jax.nn.relu)

    def gelu(self, x):
        """Return the exact GELU."""
        return jax.nn.gelu(x, approximate=False)

    def channels(self, x):
        """Return the number of channels."""
        return x.shape[-1]

    def conv(self, name, x, filters, size, strides):
        """Convolve without a bias."""
        kernel = self.weight(f"{name}.kernel", size, size, x.shape[-1], filters)
        return _conv(x, kernel, strides, size // 2)

    def batch_norm(self, name, x):
        """Normalise over the batch, and keep moving statistics."""
        count = x.shape[-1]
        scale = self.weight(f"{name}.scale", count, mean=1.0, deviation=0.0)
        mean = jnp.mean(x, (0, 1, 2))
        variance = jnp.mean(jnp.square(x), (0, 1, 2)) - jnp.square(mean)
        before = self.moving.get(name, (jnp.zeros(count), jnp.ones(count)))
        self.moving[name] = tuple(
            (1 - MOMENTUM) * old + MOMENTUM * new
            for old, new in zip(before, (mean, variance), strict=True)
        )
        factor = scale * jax.lax.rsqrt(variance + NORM_EPSILON)
        return x * factor + (self.bias(name, count) - mean * factor)

    def layer_norm(self, name, x):
        """Normalise over the last axis."""
        width = x.shape[-1]
        scale = self.weight(f"{name}.scale", width, mean=1.0, deviation=0.0)
        x = x - jnp.mean(x, -1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + EPSILON)
        return x * scale + self.bias(name, width)

    def max_pool(self, x):
        """Halve height and width."""
        padding = [(0, 0), (1, 1), (1, 1), (0, 0)]
        window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)

    def mean_image(self, x):
        """Average over the places."""
        return x.mean((1, 2))

    def subsample_and_pad(self, x, strides, added):
        """Make a shortcut without weights."""
        half = added // 2
        padding = [(0, 0)] * 3 + [(half, added - half)]
        return jnp.pad(x[:, ::strides, ::strides], padding)

    def embed(self, name, tokens, vocabulary, width):
        """Look tokens up."""
        return self.weight(f"{name}.table", vocabulary, width, deviation=0.02)[tokens]

    def sinusoids(self, tokens, width):
        """Return the positions `(length, width)`."""
        places = np.arange(tokens.shape[1])[:, None]
        angles = places * 1e4 ** (-np.arange(width // 2) / (width // 2))
        return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype("float32")

    def max_and_mean(self, x):
        """Pool over the positions."""
        return jnp.concatenate([x.max(1), x.mean(1)], 1)

    def bilstm(self, name, x, units):
        """Return the last state in each direction."""
        forward = self._lstm(f"{name}.forward", x, units)
        backward = self._lstm(f"{name}.backward", x[:, ::-1], units)
        return jnp.concatenate([forward, backward], 1)

    def _lstm(self, name, x, units):
        recurrent = self.weight(f"{name}.recurrent", units, 4 * units)
        x = self.dense(name, x, 4 * units).swapaxes(0, 1)

        def step(carry, gates):
            state, memory = carry
            i, f, g, o = jnp.split(gates + state @ recurrent, 4, -1)
            memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(memory), memory), None

        start = jnp.zeros((x.shape[1], units))
        return jax.lax.scan(step, (start, start), x)[0][0]

    def attention(self, qkv, heads):
        """Mix values over the positions."""
        batch, length, width = qkv.shape
        parts = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, -1), 2, 0)
        return jax.nn.dot_product_attention(*parts).reshape(batch, length, width // 3)

    def patches(self, name, x, width, size):
        """Turn an image into tokens."""
        kernel = self.weight(f"{name}.kernel", size, size, x.shape[-1], width)
        x = _conv(x, kernel, size, 0) + self.bias(name, width)
        return x.reshape(len(x), -1, width)

    def with_class_token(self, name, x):
        """Put a learned token in front, and add learned positions."""
        batch, length, width = x.shape
        token = self.weight(f"{name}.token", 1, 1, width, deviation=0.02)
        places = self.weight(f"{name}.places", 1, length + 1, width, deviation=0.02)
        token = jnp.broadcast_to(token, (batch, 1, width))
        return jnp.concatenate([token, x], 1) + places


def _conv(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def make(network, x, y, *, batch, rate):
    """Return the loops by name; arguments and result as in `twins.torch.make`."""
    feed = (_photos if isinstance(x, list) else _rows)(x, y)
    o = Operations({}, {})
    (first, _), *_ = feed([batch])
    network(o, first)

    def loss_of(weights, moving, x, y):
        o = Operations(weights, dict(moving))
        scores = jax.nn.log_softmax(network(o, x))
        return -jnp.mean(jnp.take_along_axis(scores, y[:, None], 1)), o.moving

    def step(state, x, y):
        weights, moving, first, second, count = state
        (loss, moving), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            weights, moving, x, y
        )
        count = count + 1
        first = jax.tree.map(
            lambda m, g: BETA_1 * m + (1 - BETA_1) * g, first, gradients
        )
        second = jax.tree.map(
            lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, second, gradients
        )
        size = rate * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * DECAY * w - size * m / (jnp.sqrt(v) + SMALL),
            weights,
            first,
            second,
        )
        return (weights, moving, first, second, count), loss

    step = jax.jit(step, donate_argnums=0)
    zeros = [jax.tree.map(jnp.zeros_like, o.weights) for _ in range(2)]
    state = [(o.weights, o.moving, *zeros, jnp.zeros(()))]

    def run(order):
        for x, y in feed(order):
            state[0], loss = step(state[0], x, y)
        return float(loss)

    return {"jit": run}, sum(weight.size for weight in o.weights.values())


def _rows(x, y):
    """Return what yields the batches of an order, of data on the device."""
    x, y = jnp.asarray(x), jnp.asarray(y)

    @jax.jit
    def take(rows):
        return x[rows], y[rows]

    return lambda order: map(take, order)


def _photos(paths, y):
    """Return the same of files, read ahead in two threads."""
    pool = ThreadPoolExecutor(2)

    def read(rows):
        return np.stack([pillow_photo(paths[row], PHOTO_SIDE) for row in rows]), y[rows]

    def feed(order):
        waiting = deque()
        for rows in order:
            waiting.append(pool.submit(read, rows))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    return feed
