"""Data parallelism on paper: communication beside computation, to 1,024 GPUs.

    python benchmarks/scaling.py          # counts, and writes results/scaling.json
    python benchmarks/scaling.py --table  # the tables of docs/scaling.md

Parameters and operations are counted in the builders themselves (`flops.py`, needs JAX,
computes nothing); the rest are the formulas below under `ASSUMED`. Nothing here was
measured on a GPU.
"""

import argparse
import json
import math
import os
from dataclasses import asdict, dataclass, field

from common import RESULTS, markdown

PATH = RESULTS / "scaling.json"
NUMBERS = (8, 64, 1024)
MOST = 2**14


@dataclass(frozen=True)
class Assumed:
    """What is taken for granted of a cluster; times in seconds.

    Attributes:
        peak: Operations per second of a GPU: an H100 SXM in bfloat16, its data sheet.
        share: Part of the peak that a step reaches. Small models reach less, and then
            communication hides sooner than is said here.
        per_host: GPUs of a host.
        nvlink: Bytes per second of a GPU to the others of its host, one direction.
        network: Bytes per second of a GPU to other hosts: one 400 Gb/s port each.
        nvlink_hop: Time of one hop of a ring within a host, however few the bytes.
        network_hop: Time of one level of a tree over hosts.
        bucket: Bytes of gradients that are reduced at once (DistributedDataParallel's
            25 MiB).
    """

    peak: float = 989e12
    share: float = 0.4
    per_host: int = 8
    nvlink: float = 450e9
    network: float = 50e9
    nvlink_hop: float = 1.5e-6
    network_hop: float = 7e-6
    bucket: int = 25 * 2**20

    @property
    def speed(self) -> float:
        """Operations per second that a step reaches."""
        return self.share * self.peak


ASSUMED = Assumed()


@dataclass(frozen=True)
class Workload:
    """A builder at a size at which it is used.

    Attributes:
        builder: Its name.
        inputs: Name of each input to shape and dtype of one example.
        limit: Largest global batch taken as harmless to the result.
        arguments: Arguments of the builder.
        encoder: Width, tokens and blocks of a transformer.
    """

    builder: str
    inputs: dict
    limit: int
    arguments: dict = field(default_factory=dict)
    encoder: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        """The variant, or the builder that has none."""
        return self.arguments.get("variant", self.builder)


def _image(*shape: int) -> dict:
    return {"image": (shape, "float32")}


LARGE, SMALL = _image(224, 224, 3), _image(32, 32, 3)
TOKENS = {"tokens": ((200,), "int32")}
NGRAMS = {"ngrams": ((400,), "int32")}
# Goyal et al. 2017 train ResNet-50 on ImageNet with 8,192, Dosovitskiy et al. 2021
# their transformers with 4,096; elsewhere an epoch keeps about 50 steps.
CONVOLUTIONS, TRANSFORMERS, FASHION, CIFAR, IMDB = 8192, 4096, 1024, 1024, 512
MLP = {"input_shape": (784,), "num_classes": 10, "hidden": (256, 256)}
SMALL_RESNET = {"variant": "resnet20", "input_shape": (32, 32, 3), "num_classes": 10}
WORKLOADS = [
    Workload("mlp", {"features": ((784,), "float32")}, FASHION, MLP),
    Workload("lenet5", _image(32, 32, 1), FASHION),
    Workload("cnn", SMALL, CIFAR),
    Workload("resnet", SMALL, CIFAR, SMALL_RESNET),
    Workload("alexnet", LARGE, CONVOLUTIONS),
    Workload("vgg", LARGE, CONVOLUTIONS, {"variant": "vgg16"}),
    Workload("inception", LARGE, CONVOLUTIONS),
    Workload("resnet", LARGE, CONVOLUTIONS, {"variant": "resnet50"}),
    Workload("resnet", LARGE, CONVOLUTIONS, {"variant": "resnet152"}),
    Workload("densenet", LARGE, CONVOLUTIONS, {"variant": "densenet121"}),
    Workload("efficientnet", LARGE, CONVOLUTIONS, {"variant": "efficientnet_b0"}),
    Workload(
        "efficientnet",
        _image(600, 600, 3),
        CONVOLUTIONS,
        {"variant": "efficientnet_b7", "input_shape": (600, 600, 3)},
    ),
    Workload(
        "vit", LARGE, TRANSFORMERS, {"variant": "vit_ti16"}, encoder=(192, 197, 12)
    ),
    Workload(
        "vit", LARGE, TRANSFORMERS, {"variant": "vit_b16"}, encoder=(768, 197, 12)
    ),
    Workload(
        "vit", LARGE, TRANSFORMERS, {"variant": "vit_l16"}, encoder=(1024, 197, 24)
    ),
    Workload("rnn", {"series": ((96, 1), "float32")}, FASHION),
    Workload("lstm_sentiment", TOKENS, IMDB),
    Workload("text_cnn", TOKENS, IMDB),
    Workload("transformer_classifier", TOKENS, IMDB, encoder=(128, 200, 2)),
    Workload("ngram_classifier", NGRAMS, IMDB),
    Workload("sentiment", {**TOKENS, **NGRAMS}, IMDB),
]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        print(tables(json.loads(PATH.read_text())["rows"]))
        return
    os.environ["KERAS_BACKEND"] = "jax"
    rows = [describe(workload) for workload in WORKLOADS]
    found = {"assumed": asdict(ASSUMED), "rows": rows}
    PATH.write_text(json.dumps(found, indent=1) + "\n")


def describe(workload: Workload) -> dict:
    """Count a builder, and put what follows beside it."""
    import flops

    import kerasdl

    def build():
        return kerasdl.BUILDERS[workload.builder](**workload.arguments, optimizer=None)

    counted = flops.count(build, workload.inputs)
    parameters, forward = counted["parameters"], counted["forward_flops"]
    row = {
        "builder": workload.builder,
        "model": workload.name,
        **counted,
        "state_bytes": 16 * parameters,
        "limit": workload.limit,
        "pays_to": pays_to(parameters, forward, workload.limit),
        "gpus": {
            str(n): beside(parameters, forward, workload.limit, n) for n in NUMBERS
        },
    }
    if workload.encoder:
        row["tensor_parallel"] = {
            str(n): rounded(tensor_parallel_share(*workload.encoder, forward, n))
            for n in (2, 4, 8)
        }
    return row


def beside(parameters: int, forward: int, limit: int, gpus: int) -> dict:
    """Return communication, the batch that hides it, and efficiency at the limit."""
    communication = all_reduce_seconds(4 * parameters, gpus)
    return {
        "communication_seconds": rounded(communication),
        "hiding_batch": hiding_batch(forward, communication),
        "efficiency": rounded(efficiency(forward, communication, limit / gpus)),
    }


def all_reduce_seconds(size: float, gpus: int, on: Assumed = ASSUMED) -> float:
    """Time to sum gradients over GPUs, each of which has all of them.

    A ring moves `2 (n - 1) / n` times the bytes through each GPU. Over several hosts,
    three steps: reduce-scatter within the host, which leaves each GPU an eighth, all-
    reduce of that eighth over the hosts through each GPU's own port, all-gather within
    the host. The steps are added up, though libraries overlap them in part.

    Args:
        size: Bytes of gradients.
        gpus: Number of GPUs; hosts are full where there are several.
        on: The cluster.
    """
    inside = min(gpus, on.per_host)
    hosts = math.ceil(gpus / on.per_host)
    seconds = _ring(size, inside) / on.nvlink
    seconds += _ring(size / inside, hosts) / on.network
    hops = 2 * (inside - 1) * on.nvlink_hop + 2 * math.log2(hosts) * on.network_hop
    return seconds + math.ceil(size / on.bucket) * hops


def _ring(size: float, members: int) -> float:
    return 2 * (members - 1) / members * size


def hiding_batch(
    forward: int, communication: float, on: Assumed = ASSUMED
) -> int | None:
    """Return the examples per GPU whose backward pass takes as long as communication.

    Gradients are reduced from the last layer on, while those of earlier layers are
    computed: two thirds of the step, `2 × forward` operations per example. `None` where
    a model has no products to hide behind.
    """
    if forward == 0:
        return None
    return max(1, math.ceil(communication * on.speed / (2 * forward)))


def efficiency(
    forward: int, communication: float, batch: float, on: Assumed = ASSUMED
) -> float | None:
    """Return the part of the GPUs' time that computes, at some examples per GPU.

    1 where communication is hidden; `None` where a GPU has less than one example.
    """
    if batch < 1:
        return None
    one_pass = forward * batch / on.speed
    return 3 * one_pass / (one_pass + max(2 * one_pass, communication))


def pays_to(parameters: int, forward: int, limit: int) -> int:
    """Return the most GPUs, a power of 2, that hide communication within the limit."""
    gpus = 1
    while gpus < MOST:
        communication = all_reduce_seconds(4 * parameters, 2 * gpus)
        batch = hiding_batch(forward, communication)
        if batch is None or 2 * gpus * batch > limit:
            break
        gpus *= 2
    return gpus


def tensor_parallel_share(
    width: int, tokens: int, depth: int, forward: int, gpus: int, on: Assumed = ASSUMED
) -> float:
    """Return communication over computation where GPUs share each block's matrices.

    The output of attention and that of the network within are summed in each block, in
    the forward and in the backward pass: four all-reduces of `tokens × width` bfloat16
    numbers per example, which nothing hides. The batch cancels out.
    """
    communication = 4 * depth * _ring(2 * tokens * width, gpus) / on.nvlink
    return communication / (3 * forward / gpus / on.speed)


def width_for_tensor_parallel(gpus: int, share: float, on: Assumed = ASSUMED) -> float:
    """Return the width at which `tensor_parallel_share` has come down to a share.

    A block takes about `24 × width²` operations per token.
    """
    return 16 * (gpus - 1) * on.speed / (72 * share * on.nvlink)


def bubble(stages: int, parts: int) -> float:
    """Return the idle part of a pipeline whose batch goes through in parts."""
    return (stages - 1) / (parts + stages - 1)


def rounded(number: float | None) -> float | None:
    """Round to three digits that count."""
    return None if number is None else float(f"{number:.3g}")


def tables(rows: list[dict]) -> str:
    """Return the tables of docs/scaling.md."""
    head = ["model", "parameters", "forward GFLOPs", "weights and Adam, GB"]
    head += [f"ms at {n}" for n in NUMBERS]
    first = [
        [
            f"`{row['model']}`",
            f"{row['parameters'] / 1e6:,.2f} M",
            f"{row['forward_flops'] / 1e9:,.3g}",
            f"{row['state_bytes'] / 1e9:.2g}",
            *(f"{1e3 * c['communication_seconds']:.2g}" for c in row["gpus"].values()),
        ]
        for row in rows
    ]
    titles = ["model", *(f"hidden from, at {n}" for n in NUMBERS), "limit"]
    titles += [*(f"% at {n}" for n in NUMBERS), "pays to"]
    second = [
        [
            f"`{row['model']}`",
            *(_shown(c["hiding_batch"]) for c in row["gpus"].values()),
            f"{row['limit']:,}",
            *(_shown(c["efficiency"], 100) for c in row["gpus"].values()),
            f"{row['pays_to']:,}",
        ]
        for row in rows
    ]
    third = [
        [f"`{row['model']}`", *(f"{s:.2f}" for s in row["tensor_parallel"].values())]
        for row in rows
        if "tensor_parallel" in row
    ]
    return "\n\n".join(
        [
            markdown(head, first),
            markdown(titles, second),
            markdown(["model", "2 GPUs", "4", "8"], third),
        ]
    )


def _shown(value: float | None, factor: float = 1) -> str:
    return "-" if value is None else f"{factor * value:,.0f}"


if __name__ == "__main__":
    main()
