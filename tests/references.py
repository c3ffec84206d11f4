"""Reference implementations that the tests compare with, where they are installed."""

import pytest


def torchvision():
    """Import torchvision, or skip the test.

    Its compiled part is made for one build of PyTorch. The models do not need it, the
    import does: it wants the signatures of two operators.
    """
    torch = pytest.importorskip("torch")
    if not hasattr(torch.ops.torchvision, "nms"):
        boxes = "Tensor dets, Tensor scores"
        library = torch.library.Library("torchvision", "DEF")
        library.define(f"nms({boxes}, float iou_threshold) -> Tensor")
        library.define(f"qnms({boxes}, float iou_threshold) -> Tensor")
        torchvision.library = library  # it lasts as long as somebody holds it
    return pytest.importorskip("torchvision")


def settled(module, images):
    """Give a torch module scales and shifts, and the images' statistics, as if trained.

    With the statistics it is born with, the signal of a deep network vanishes, and with
    it every error.

    Args:
        module: Module with batch norms.
        images: Images `(batch, height, width, channels)`.

    Returns:
        The module, in evaluation mode.
    """
    import torch

    torch.manual_seed(0)
    norms = [x for x in module.modules() if isinstance(x, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
        norm.momentum = 1.0
    torch_logits(module.train(), images)
    return module.eval()


def torch_logits(module, images):
    """Return what a torch module makes of NumPy images, channels last."""
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
