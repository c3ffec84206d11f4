"""The networks of the twins, over the operations of a framework.

`o` makes the weights on the first pass, by name, and finds them on later ones. Images
have the layout of the framework, texts are `(batch, length)`.
"""


def mlp(o, x, *, hidden, classes):
    """Dense layers with ReLU."""
    for i, units in enumerate(hidden):
        x = o.relu(o.dense(f"hidden{i}", x, units))
    return o.dense("logits", x, classes)


def resnet(o, x, *, units, width, bottleneck, imagenet, classes):
    """Residual network: He et al. 2015, the stride in the 3×3 convolution."""
    x = _normed(o, "stem", x, width, 7 if imagenet else 3, 2 if imagenet else 1)
    x = o.relu(x)
    if imagenet:
        x = o.max_pool(x)
    for i, count in enumerate(units):
        for j in range(count):
            strides = 2 if i and not j else 1
            x = _unit(o, f"{i}.{j}", x, width * 2**i, strides, bottleneck, imagenet)
    return o.dense("logits", o.mean_image(x), classes)


def _unit(o, name, x, width, strides, bottleneck, projected):
    convolutions = [(width, 3, strides), (width, 3, 1)]
    if bottleneck:
        convolutions = [(width, 1, 1), (width, 3, strides), (4 * width, 1, 1)]
    y = x
    for k, convolution in enumerate(convolutions):
        y = _normed(o, f"{name}.{k}", y, *convolution)
        if k < len(convolutions) - 1:
            y = o.relu(y)
    if o.channels(x) != o.channels(y):
        if projected:
            x = _normed(o, f"{name}.shortcut", x, o.channels(y), 1, strides)
        else:
            x = o.subsample_and_pad(x, strides, o.channels(y) - o.channels(x))
    return o.relu(x + y)


def _normed(o, name, x, filters, size, strides):
    return o.batch_norm(f"{name}.norm", o.conv(name, x, filters, size, strides))


def bilstm(o, tokens, *, vocabulary, width, units, classes):
    """Last states of an LSTM in each direction."""
    x = o.embed("embedding", tokens, vocabulary, width)
    return o.dense("logits", o.bilstm("lstm", x, units), classes)


def encoder(o, tokens, *, vocabulary, width, depth, heads, classes):
    """Pre-norm encoder with fixed positions, pooled by maximum and mean."""
    x = o.embed("embedding", tokens, vocabulary, width) + o.sinusoids(tokens, width)
    x = o.layer_norm("norm", _blocks(o, x, depth, heads))
    return o.dense("logits", o.max_and_mean(x), classes)


def vit(o, x, *, patch, width, depth, heads, classes):
    """Vision transformer with a class token."""
    x = o.patches("patches", x, width, patch)
    x = o.with_class_token("token", x)
    x = o.layer_norm("norm", _blocks(o, x, depth, heads))
    return o.dense("logits", x[:, 0], classes)


def _blocks(o, x, depth, heads):
    for i in range(depth):
        width = x.shape[-1]
        y = o.dense(f"{i}.qkv", o.layer_norm(f"{i}.norm1", x), 3 * width)
        x = x + o.dense(f"{i}.out", o.attention(y, heads), width)
        y = o.gelu(o.dense(f"{i}.expand", o.layer_norm(f"{i}.norm2", x), 4 * width))
        x = x + o.dense(f"{i}.project", y, width)
    return x
