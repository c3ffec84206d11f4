"""EfficientNet: torchvision's numbers, scaling and regularisation."""

import keras
import numpy as np
import pytest
from references import settled, torch_logits, torchvision

from kerasdl.backend import forward
from kerasdl.layers import StochasticDepth
from kerasdl.models.efficientnet import efficientnet
from kerasdl.torch_weights import load_torch_weights

SIZE = (33, 38)  # odd and even, so that every stride meets both
SMALL = {"width": 0.25, "depth": 0.3}


def test_forward_is_torchvisions():
    images = np.random.default_rng(0).normal(size=(8, *SIZE, 3)).astype("float32")
    theirs = settled(torchvision().models.efficientnet_b0(), images)
    ours = efficientnet((*SIZE, 3), optimizer=None)
    load_torch_weights(ours, theirs.state_dict())
    expected = torch_logits(theirs, images[:2])
    assert np.abs(expected[0] - expected[1]).max() > 0.1  # the image matters
    np.testing.assert_allclose(forward(ours)(images[:2]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", ["b0", "b4", "b5"])
def test_norms_and_drop_rates_are_torchvisions(size):
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        theirs = getattr(torchvision().models, f"efficientnet_{size}")()
    with keras.StatelessScope(initialize_variables=False):
        ours = efficientnet(variant=f"efficientnet_{size}", optimizer=None)

    expected = {
        (module.eps, 1 - module.momentum)
        for module in theirs.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    norms = [x for x in ours.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == expected
    assert ours.get_layer("dropout").rate == theirs.classifier[0].p
    units = [x for x in theirs.modules() if getattr(x, "use_res_connect", False)]
    rates = [x.rate for x in ours.layers if isinstance(x, StochasticDepth)]
    np.testing.assert_allclose(rates, [unit.stochastic_depth.p for unit in units])
    assert rates[-1] > 0.15


@pytest.mark.parametrize(("size", "left"), [((1, 1), (1, 1)), ((65, 32), (3, 1))])
def test_feature_map_rounds_up_so_that_one_pixel_is_enough(size, left):
    with keras.StatelessScope(initialize_variables=False):
        model = efficientnet((*size, 3), 2, **SMALL, optimizer=None)
    assert model.get_layer("head_swish").output.shape[1:3] == left


def test_no_branch_is_dropped_at_inference():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    whole = efficientnet((8, 8, 1), 2, **SMALL, optimizer=None, stochastic_depth=0.0)
    dropped = efficientnet((8, 8, 1), 2, **SMALL, optimizer=None, stochastic_depth=0.9)
    dropped.set_weights(whole.get_weights())
    np.testing.assert_array_equal(forward(dropped)(images), forward(whole)(images))
