"""The loop in raw TensorFlow: one `tf.function`, without and with XLA."""

import numpy as np
import tensorflow as tf
from photos import PHOTO_SIDE, tensorflow_photo

EPSILON, NORM_EPSILON, MOMENTUM = 1e-6, 1e-5, 0.1
BETA_1, BETA_2, DECAY, SMALL = 0.9, 0.999, 0.01, 1e-8


class Operations:
    """What the networks are made of; images are `(batch, h, w, channels)`."""

    def __init__(self):
        self.weights, self.moving = {}, {}
        self.xla_compiles = True

    def weight(self, name, *shape, mean=0.0, deviation=None):
        """Return a weight, made on the first pass."""
        if name not in self.weights:
            fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1
            deviation = fan_in**-0.5 if deviation is None else deviation
            values = mean + deviation * np.random.default_rng(0).normal(size=shape)
            self.weights[name] = tf.Variable(values.astype("float32"))
        return self.weights[name]

    def bias(self, name, units):
        """Return a bias."""
        return self.weight(f"{name}.bias", units, deviation=0.0)

    def dense(self, name, x, units):
        """Return a linear map of the last axis."""
        kernel = self.weight(f"{name}.kernel", x.shape[-1], units)
        shape = x.shape
        if len(shape) > 2:
            x = tf.reshape(x, (-1, shape[-1]))
        x = tf.nn.bias_add(x @ kernel, self.bias(name, units))
        return tf.reshape(x, (-1, *shape[1:-1], units)) if len(shape) > 2 else x

    relu = staticmethod(tf.nn.relu)
    gelu = staticmethod(tf.nn.gelu)

    def channels(self, x):
        """Return the number of channels."""
        return x.shape[-1]

    def conv(self, name, x, filters, size, strides):
        """Convolve without a bias."""
        kernel = self.weight(f"{name}.kernel", size, size, x.shape[-1], filters)
        half = size // 2
        padding = [[0, 0], [half, half], [half, half], [0, 0]]
        return tf.nn.conv2d(x, kernel, strides, padding if half else "VALID")

    def batch_norm(self, name, x):
        """Normalise over the batch, and keep moving statistics."""
        count = x.shape[-1]
        scale = self.weight(f"{name}.scale", count, mean=1.0, deviation=0.0)
        if name not in self.moving:
            self.moving[name] = [tf.Variable(f(count)) for f in (tf.zeros, tf.ones)]
        x, *statistics = tf.compat.v1.nn.fused_batch_norm(
            x, scale, self.bias(name, count), epsilon=NORM_EPSILON
        )
        for variable, new in zip(self.moving[name], statistics, strict=True):
            variable.assign_sub(MOMENTUM * (variable - new))
        return x

    def layer_norm(self, name, x):
        """Normalise over the last axis."""
        width = x.shape[-1]
        scale = self.weight(f"{name}.scale", width, mean=1.0, deviation=0.0)
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return tf.nn.batch_normalization(
            x, mean, variance, self.bias(name, width), scale, EPSILON
        )

    def max_pool(self, x):
        """Halve height and width."""
        self.xla_compiles = False  # no pools with explicit padding
        return tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])

    def mean_image(self, x):
        """Average over the places."""
        return tf.reduce_mean(x, (1, 2))

    def subsample_and_pad(self, x, strides, added):
        """Make a shortcut without weights."""
        half = added // 2
        padding = [[0, 0]] * 3 + [[half, added - half]]
        return tf.pad(x[:, ::strides, ::strides], padding)

    def embed(self, name, tokens, vocabulary, width):
        """Look tokens up."""
        table = self.weight(f"{name}.table", vocabulary, width, deviation=0.02)
        return tf.nn.embedding_lookup(table, tokens)

    def sinusoids(self, tokens, width):
        """Return the positions `(length, width)`."""
        places = np.arange(tokens.shape[1])[:, None]
        angles = places * 1e4 ** (-np.arange(width // 2) / (width // 2))
        return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype("float32")

    def max_and_mean(self, x):
        """Pool over the positions."""
        return tf.concat([tf.reduce_max(x, 1), tf.reduce_mean(x, 1)], 1)

    def bilstm(self, name, x, units):
        """Return the last state in each direction."""
        forward = self._lstm(f"{name}.forward", x, units)
        backward = self._lstm(f"{name}.backward", x[:, ::-1], units)
        return tf.concat([forward, backward], 1)

    def _lstm(self, name, x, units):
        recurrent = self.weight(f"{name}.recurrent", units, 4 * units)
        length = x.shape[1]
        x = tf.transpose(self.dense(name, x, 4 * units), (1, 0, 2))
        start = tf.zeros((tf.shape(x)[1], units))

        def step(place, state, memory):
            i, f, g, o = tf.split(x[place] + state @ recurrent, 4, -1)
            memory = tf.sigmoid(f) * memory + tf.sigmoid(i) * tf.tanh(g)
            return place + 1, tf.sigmoid(o) * tf.tanh(memory), memory

        return tf.while_loop(
            lambda place, *_: place < length,
            step,
            (0, start, start),
            maximum_iterations=length,
        )[1]

    def attention(self, qkv, heads):
        """Mix values over the positions."""
        _, length, width = qkv.shape
        parts = tf.reshape(qkv, (-1, length, 3, heads, width // 3 // heads))
        query, key, value = tf.unstack(tf.transpose(parts, (2, 0, 3, 1, 4)))
        scores = tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)
        mixed = tf.transpose(tf.nn.softmax(scores) @ value, (0, 2, 1, 3))
        return tf.reshape(mixed, (-1, length, width // 3))

    def patches(self, name, x, width, size):
        """Turn an image into tokens."""
        kernel = self.weight(f"{name}.kernel", size, size, x.shape[-1], width)
        x = tf.nn.conv2d(x, kernel, size, "VALID") + self.bias(name, width)
        return tf.reshape(x, (-1, x.shape[1] * x.shape[2], width))

    def with_class_token(self, name, x):
        """Put a learned token in front, and add learned positions."""
        _, length, width = x.shape
        token = self.weight(f"{name}.token", 1, 1, width, deviation=0.02)
        places = self.weight(f"{name}.places", 1, length + 1, width, deviation=0.02)
        token = tf.broadcast_to(token, (tf.shape(x)[0], 1, width))
        return tf.concat([token, x], 1) + places


def make(network, x, y, *, batch, rate):
    """Return the loops by name; arguments and result as in `twins.torch.make`."""
    loops = {}
    feed = (_photos if isinstance(x, list) else _rows)(x, y)
    (first, _), *_ = feed([batch])
    for name in ("function", "xla"):
        o = Operations()
        network(o, first)
        if name == "xla" and not o.xla_compiles:
            continue
        loops[name] = _loop(network, o, feed, rate=rate, xla=name == "xla")
    return loops, sum(int(tf.size(weight)) for weight in o.weights.values())


def _rows(x, y):
    """Return what yields the batches of an order, of data in memory."""
    with tf.device("CPU"):
        x, y = tf.constant(x), tf.constant(y)

    def feed(order):
        for rows in order:
            with tf.device("CPU"):
                batch = tf.gather(x, rows), tf.gather(y, rows)
            yield batch

    return feed


def _photos(paths, y):
    """Return the same of files, read by tf.data in an order of its own."""
    data = tf.data.Dataset.from_tensor_slices((list(map(str, paths)), y))
    data = data.shuffle(len(paths)).map(
        lambda path, label: (tensorflow_photo(path, PHOTO_SIDE), label),
        tf.data.AUTOTUNE,
    )

    def feed(order):
        batches = data.batch(len(order[0])).prefetch(tf.data.AUTOTUNE)
        return iter(batches.take(len(order)))

    return feed


def _loop(network, o, feed, *, rate, xla):
    weights = list(o.weights.values())
    slots = [[tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2)]
    count = tf.Variable(0.0)

    def step(x, y):
        with tf.GradientTape() as tape:
            scores = tf.nn.sparse_softmax_cross_entropy_with_logits(y, network(o, x))
            loss = tf.reduce_mean(scores)
        gradients = tape.gradient(loss, weights)
        count.assign_add(1.0)
        powers = tf.pow(BETA_1, count), tf.pow(BETA_2, count)
        for weight, gradient, first, second in zip(
            weights, gradients, *slots, strict=True
        ):
            weight.assign_sub(rate * DECAY * weight)
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle, m=first.handle, v=second.handle,
                beta1_power=powers[0], beta2_power=powers[1], lr=rate,
                beta1=BETA_1, beta2=BETA_2, epsilon=SMALL,
                grad=tf.convert_to_tensor(gradient),
            )  # fmt: skip
        return loss

    step = tf.function(step, jit_compile=xla, autograph=False)

    def run(order):
        for batch in feed(order):
            loss = step(*batch)
        return float(loss)

    return run
