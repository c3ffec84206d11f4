"""Data and pretrained folders from strangers: archives, tables, HDF5, links."""

import json
import os
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
from hostile import VGG, WATCH, Gadget, gadgets, layer, payloads
from test_security import refused

from kerasdl.data import archives, tables
from kerasdl.data.archives import read_arrays
from kerasdl.data.image_sources import load_images
from kerasdl.data.tables import read_table
from kerasdl.models.pretrained import keras_hub
from kerasdl.pretrained import open_pretrained

BOMB = 2**28 + 1024


def images(path):
    return load_images(str(path))


def npy(shape, dtype="|u1", data=b""):
    """Return an array's file whose header may claim anything."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


LABELS = npy("(2,)", data=b"\0\1")


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "content",
    [
        npy("(1000000, 1000000, 1000)"),
        npy("(2, 2, 2, 99999999999999999999)"),
        npy("(-2, -4)", data=bytes(8)),
        npy("(2, 2, 2)", data=bytes(7)),
        npy("(2, 2, 2)", data=bytes(9)),
        npy("(2, 2, 2)", "|O", data=bytes(64)),
        npy("(2, 2, 2)", "|V9", data=bytes(72)),
        npy("(2, 2, 2)", "[('a', '|O')]", data=bytes(64)),
        npy("(2,) + (" + "2," * 5000 + ")"),
        npy("(__import__('os').system('touch canary'),)"),
        npy("(2, 2, 2)", data=bytes(8)).replace(b"\1\0", b"\7\0", 1),
        b"\x93NUMPY",
        b"",
        b"no array",
    ],
)
def test_arrays_that_are_not_what_they_claim(tmp_path, content):
    path = npz(tmp_path / "set.npz", images=content, labels=LABELS)
    refused(path, r"cannot be read as \.npz", images)
    assert not Path("canary").exists()


@pytest.mark.backend_free
def test_payloads_in_place_of_an_archive(tmp_path):
    canary = tmp_path / "canary"
    good = npy("(2, 2, 2)", data=bytes(8))
    for payload in payloads(canary).values():
        path = tmp_path / "set.npz"
        path.write_bytes(payload)
        refused(path, "set.npz", images)
        refused(npz(path, images=good, labels=payload), "set.npz", images)
    np.savez(
        path, images=np.zeros((2, 2, 2), "u1"), labels=[Gadget(canary), Gadget(canary)]
    )
    refused(path, "no plain numbers or texts", images)
    assert not canary.exists()


@pytest.mark.backend_free
def test_an_archive_that_grows_without_bounds(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", LABELS)
        with archive.open("images.npy", "w") as file:
            file.write(npy(f"({BOMB // 1024}, 32, 32)"))
            for _ in range(BOMB // 2**20):
                file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    refused(path, "would grow from", images)


@pytest.mark.backend_free
def test_many_or_odd_members(tmp_path):
    path = tmp_path / "set.npz"
    good = npy("(2, 2, 2)", data=bytes(8))
    refused(
        npz(path, **{f"a{i}": b"" for i in range(archives.MOST_MEMBERS + 1)}),
        "holds 1,001 files",
        images,
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", good)
        archive.writestr("labels.npy", LABELS)
    refused(path, "packed in an unusual way", images)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", good)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("images.npy", good)
    refused(path, "stands there twice", images)
    content = bytearray(npz(path, images=good, labels=LABELS).read_bytes())
    for start in range(len(content)):
        if content[start : start + 4] == b"PK\1\2":
            content[start + 8] |= 1  # encrypted
    path.write_bytes(content)
    refused(path, "cannot be read", images)


@pytest.mark.backend_free
def test_members_with_paths_stay_where_they_are(tmp_path):
    path = tmp_path / "deep" / "set.npz"
    path.parent.mkdir()
    np.savez(path, images=np.zeros((2, 2, 2), "u1"), labels=[0, 1])
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../../escaped.npy", "/tmp/escaped.npy", "a\\..\\escaped.npy"):
            archive.writestr(name, LABELS)
        link = zipfile.ZipInfo("link.npy")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with WATCH(tmp_path):
        arrays, names = read_arrays(path, ["images", "labels", "../../escaped"])
    assert arrays["images"].shape == (2, 2, 2)
    assert arrays["images"].flags.writeable
    assert len(names) == 6
    assert [file.name for file in tmp_path.rglob("*")] == ["deep", "set.npz"]


@pytest.mark.backend_free
def test_arrays_are_those_of_numpy(tmp_path):
    path = tmp_path / "set.npz"
    wanted = {
        "c": np.arange(12, dtype=">i4").reshape(3, 4),
        "f": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4, 5))),
        "text": np.array(["ä", "bc"]),
        "scalar": np.array(7),
        "none": np.zeros((0, 3), bool),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **wanted)
        found, _ = read_arrays(path, [*wanted, "missing"])
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


@pytest.mark.backend_free
def test_parquet_files_that_would_fill_the_memory(tmp_path, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    options = {"encoding": "utf-8", "encoding_errors": "strict"}

    def read(path):
        return read_table(path, **options)

    rows = pa.table({"text": pa.nulls(10**6 + 1, pa.bool_())})
    parquet.write_table(rows, path)
    assert path.stat().st_size < 10**4
    monkeypatch.setattr(tables, "MOST_ROWS", 10**6)
    refused(path, "1,000,001 rows", read)
    path.write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    refused(path, "cannot be read as Parquet", read)


CONFIG = {"class_name": "VGGBackbone", "config": VGG}


def hub_folder(folder, config=CONFIG, weights=True):
    """Write a folder as KerasHub does, and return the path of its weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.weights.h5"
    if weights:
        settings = {**VGG, "image_shape": (8, 8, 3)}
        keras_hub().models.VGGBackbone(**settings).save_weights(path)
    return path


@pytest.fixture(scope="module")
def hub_weights(tmp_path_factory):
    """The weights of a tiny backbone, which loads."""
    path = hub_folder(tmp_path_factory.mktemp("hub"))
    open_pretrained(path.parent)
    return path.read_bytes()


def kernel_of(file):
    """Return the name of the first array in an HDF5 file."""
    names = []
    file.visit(names.append)
    arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
    return next(name for name in arrays if file[name].ndim == 4)


def _external_link(file, name, outside):
    del file[name]
    file[name] = h5py.ExternalLink(str(outside), "secret")


def _soft_link(file, name, outside):  # noqa: ARG001
    del file[name]
    file[name] = h5py.SoftLink("/nowhere")


def _external_storage(file, name, outside):
    shape = file[name].shape
    del file[name]
    size = 4 * int(np.prod(shape))
    file.create_dataset(name, shape, "f4", external=[(str(outside), 0, size)])


def _virtual(file, name, outside):
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(outside), "secret", shape)
    file.create_virtual_dataset(name, layout)


def _shape_bomb(file, name, outside):  # noqa: ARG001
    del file[name]
    file.create_dataset(name, (2**20, 2**20), "f4", chunks=(64, 64), compression="gzip")


# CVE-2026-1669, CVE-2026-0897 and their like.
@pytest.mark.parametrize(
    "edit", [_external_link, _soft_link, _external_storage, _virtual, _shape_bomb]
)
def test_hdf5_files_read_nothing_outside_and_grow_no_bomb(tmp_path, edit, hub_weights):
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = np.full((3, 3, 3, 8), 42, "f4")
    path = hub_folder(tmp_path / "hub", weights=False)
    path.write_bytes(hub_weights)
    with h5py.File(path, "r+") as file:
        edit(file, kernel_of(file), outside)
    refused(path.parent, "cannot be read as VGGBackbone", open_pretrained)


def test_gadgets_in_a_folder_of_kerashub(tmp_path, hub_weights):
    """CVE-2025-9905 and the others: files that Keras itself would open."""
    canary = tmp_path / "canary"
    (tmp_path / "secret").write_text("a secret")
    for gadget in gadgets(canary).values():
        for config in (
            gadget,
            {**CONFIG, "config": {**VGG, "stackwise_num_filters": [gadget]}},
            {**CONFIG, "config": {**VGG, "name": gadget, "odd": gadget}},
            {**CONFIG, "config": gadget},
            # To ours of timm, to KerasHub a serialised object.
            {**gadget, "class_name": None, "architecture": "vgg11"},
            {"architecture": "vgg11", "registered_name": "keras>Lambda", "x": gadget},
            {"model_type": "vit", "registered_name": "keras>Lambda", "x": gadget},
        ):
            path = hub_folder(tmp_path / "hub", config, weights=False)
            path.write_bytes(hub_weights)
            (path.parent / "image_converter.json").write_text(json.dumps(gadget))
            (path.parent / "task.json").write_text(json.dumps(gadget))
            refused(path.parent, action=open_pretrained)
    for payload in payloads(canary).values():
        path = hub_folder(tmp_path / "hub", weights=False)
        path.write_bytes(payload)
        for name in ("pytorch_model.bin", "model.pt", "saved_model.pb"):
            (path.parent / name).write_bytes(payload)
        (path.parent / "image_converter.json").unlink(missing_ok=True)
        refused(path.parent, "cannot be read as VGGBackbone", open_pretrained)
    assert not canary.exists()


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, "config": {**VGG, "stackwise_num_filters": [2**31]}},
        {**CONFIG, "config": {**VGG, "stackwise_num_repeats": [2**31]}},
        {**CONFIG, "config": {**VGG, "stackwise_num_repeats": [2**62, 1]}},
        {**CONFIG, "config": [1]},
        {**CONFIG, "class_name": ["VGGBackbone"]},
        {"architecture": "resnet18", "num_classes": 2**31, "pretrained_cfg": {}},
        {"architecture": "resnet18", "num_classes": "7", "pretrained_cfg": []},
        {"architecture": "resnet18", "pretrained_cfg": {"input_size": 3}},
        {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 2**40, 1]}},
        {"architecture": "resnet18", "pretrained_cfg": {"std": [0, 0, 0]}},
        {"architecture": "vgg11", "num_features": 2**31, "num_classes": 2},
        {"model_type": "vit", "hidden_size": 2**20, "num_hidden_layers": 2**31},
        {"model_type": "deit", "image_size": None},
        {"model_type": ["vit"]},
    ],
)
def test_sizes_in_pretrained_folders_are_bounded(tmp_path, config, hub_weights):
    path = hub_folder(tmp_path / "hub", config, weights=False)
    path.write_bytes(hub_weights)
    safetensors.numpy.save_file(
        {"conv1.weight": np.zeros((64, 3, 7, 7), "f")},
        path.parent / "model.safetensors",
    )
    refused(path.parent, action=open_pretrained)


def test_an_index_names_files_of_its_folder(tmp_path):
    folder = tmp_path / "hub"
    hub_folder(folder, {"model_type": "vit"}, weights=False)
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "outside.safetensors")
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), 7):
        index = {"weight_map": {"a": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(folder, "no file beside it", open_pretrained)


def test_links_lead_out_of_a_pretrained_folder_in_the_cache_only(tmp_path, hub_weights):
    folder = tmp_path / "hub"
    path = hub_folder(folder, weights=False)
    (tmp_path / "blob").write_bytes(hub_weights)
    path.symlink_to(tmp_path / "blob")
    refused(folder, "leads out of", open_pretrained)
    blobs = tmp_path / "models--a" / "blobs"
    snapshot = tmp_path / "models--a" / "snapshots" / "1f2e"
    for made in (blobs, snapshot):
        made.mkdir(parents=True)
    (blobs / "2a").write_bytes(hub_weights)
    hub_folder(snapshot, weights=False).symlink_to("../../blobs/2a")
    assert open_pretrained(snapshot).arguments["backbone"] == "VGGBackbone"
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/hostname")
    refused(snapshot, "leads out of", open_pretrained)


def test_pipes_are_not_waited_for(tmp_path, hub_weights):
    for name in ("config.json", "image_converter.json", "model.weights.h5"):
        folder = tmp_path / name
        path = hub_folder(folder, weights=False)
        path.write_bytes(hub_weights)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        if name != "image_converter.json":  # which need not be there
            refused(folder, action=open_pretrained)
    assert layer("a", "b", name="c")["class_name"] == "b"
