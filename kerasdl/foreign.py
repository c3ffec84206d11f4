"""Folders of other libraries, looked at before any library reads them."""

import math
from contextlib import AbstractContextManager
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.manifest import PLAIN_NAME
from kerasdl.untrusted import brief, check_inside, open_tensors, read_json
from kerasdl.weights import at_most, table_of_contents

TORCH_INDEX = "model.safetensors.index.json"
SMALLEST_HDF5_ARRAY = 100


def check_files(folder: Path) -> AbstractContextManager:
    """Refuse a folder whose files lead outside or are no whole files.

    Args:
        folder: A folder of KerasHub, timm or Hugging Face's libraries.

    Returns:
        A block in which models are built at most as large as the stored weights.

    Raises:
        InputError: Names the file.
    """
    # The snapshots of Hugging Face's cache are links into the folder of the model.
    in_cache = folder.absolute().parent.name == "snapshots"
    root = folder.absolute().parents[1] if in_cache else folder
    tensors = numbers = 0
    for path in folder.iterdir():
        if path.suffix in (".json", ".safetensors", ".h5"):
            check_inside(path, root)
        if path.suffix == ".safetensors":
            with open_tensors(path) as arrays:
                shapes = [shape for _, shape in table_of_contents(arrays).values()]
            tensors += len(shapes)
            numbers += sum(map(math.prod, shapes))
        if path.suffix == ".h5":
            # A number has one byte at least, an array a header.
            tensors += path.stat().st_size // SMALLEST_HDF5_ARRAY
            numbers += path.stat().st_size
    if (folder / TORCH_INDEX).is_file():
        _check_index(folder / TORCH_INDEX)
    return at_most(tensors, numbers)


def _check_index(path: Path) -> None:
    files = read_json(path).get("weight_map")
    for name in files.values() if isinstance(files, dict) else [None]:
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
            raise InputError(
                f"{path} names {brief(repr(name))}, which is no file beside it"
            )
