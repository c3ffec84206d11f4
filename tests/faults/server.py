"""Trainings in forked children of one warm process, to be killed at any instant.

Reads a JSON object a line: `{"what": …, "folder": …, "kill": seconds or null}`.
Forks, lets the child do it, kills it after that time, and answers how it ended.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import resuming
import test_training

import kerasdl


def fit(folder: Path) -> None:
    found = resuming.run(folder)
    found["variables"] = [value.hex() for value in found["variables"]]
    del found["best"]
    (folder / "result.json").write_text(json.dumps(found))


def train(folder: Path) -> None:
    recipe = replace(
        test_training.NGRAM, data=str(folder.parent / "few.tsv"), batch_size=8
    )
    out = folder / "run"
    is_begun = (out / "checkpoints" / "run.json").exists()
    kerasdl.train(recipe, out=out, resume=is_begun, overwrite=True, every_steps=1)


def save(folder: Path) -> None:
    """Wait for a tracer, then save once more."""
    store = kerasdl.checkpoint.Store(folder, keep=1)
    store.newest()
    arrays = {"a": resuming.np.ones(1000)}
    os.kill(os.getpid(), signal.SIGSTOP)
    store.write("step-00000002", kerasdl.checkpoint.Saved({"step": 2}, arrays))


def run(what: str, folder: Path) -> None:
    """Do it in this child, quietly, and end it without a word."""
    code = 1
    try:
        with (folder / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 2)
            os.dup2(output.fileno(), 1)
            {"fit": fit, "train": train, "save": save}[what](folder)
            code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def tell(answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    if resuming.keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    tell("ready")
    for line in sys.stdin:
        command = json.loads(line)
        folder = Path(command["folder"])
        folder.mkdir(exist_ok=True)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            run(command["what"], folder)
        if command.get("tell"):
            tell({"pid": pid})
        if command.get("kill") is not None:
            timer = threading.Timer(command["kill"], os.kill, (pid, signal.SIGKILL))
            timer.start()
        _, status = os.waitpid(pid, 0)
        if command.get("kill") is not None:
            timer.cancel()
        seconds = time.monotonic() - start
        code = os.waitstatus_to_exitcode(status)
        tell({"code": code, "seconds": seconds})


if __name__ == "__main__":
    main()
