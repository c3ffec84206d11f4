"""Row 5 of the table of faults: files cut, changed, deleted and swapped."""

import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from recording import record

from kerasdl.checkpoint import Saved, Store, step_name
from kerasdl.errors import InputError

pytestmark = pytest.mark.faults


def saved_twice(folder, run="a"):
    store = Store(folder, run=run)
    for step in (1, 2):
        state, arrays = {"step": step}, {"a": np.arange(100.0) * step}
        store.write(step_name(step), Saved(state, arrays))
    return folder / step_name(2)


def cut(share):
    return lambda path: path.write_bytes(
        path.read_bytes()[: int(share * path.stat().st_size)]
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(1).randrange(len(content))] ^= 4
    path.write_bytes(content)


DAMAGES = {
    **{f"cut at {share:.0%}": cut(share) for share in (0, 0.02, 0.3, 0.7, 0.99)},
    "flipped": flip,
    "deleted": Path.unlink,
}


def test_every_file_damaged_in_every_way(tmp_path):
    count = 0
    for name in ("arrays.safetensors", "state.json", "manifest.json"):
        for how, damage in DAMAGES.items():
            folder = tmp_path / f"{name} {how}"
            folder.mkdir()
            damage(saved_twice(folder) / name)
            store = Store(folder, run="a")
            assert store.newest().state["step"] == 1
            assert re.match(r"step-00000002 is damaged \(.+\)$", store.damaged[0])
            count += 1
        folder, other = tmp_path / f"{name} swapped", tmp_path / f"{name} other"
        folder.mkdir()
        other.mkdir()
        state = {"step": 2, "more": 1}
        Store(other, run="b").write(step_name(2), Saved(state, {"a": np.ones(100)}))
        shutil.copy(other / step_name(2) / name, saved_twice(folder) / name)
        assert Store(folder, run="a").newest().state["step"] == 1
        count += 1
    folder = tmp_path / "whole"
    folder.mkdir()
    shutil.rmtree(saved_twice(folder))
    shutil.copytree(other / step_name(2), folder / step_name(2))
    store = Store(folder, run="a")
    assert store.newest().state["step"] == 1
    assert "belongs to another run" in store.damaged[0]
    flip(folder / step_name(1) / "arrays.safetensors")
    with pytest.raises(InputError, match=r"can be used: step-00000002 .*step-00000001"):
        Store(folder, run="a").newest()
    record("5", count + 2, fell_back=count + 1, refused=1)
