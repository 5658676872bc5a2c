"""Several processes that train one network: start, agree, and notice if they do not.

Every process runs the whole loop on its own devices. The first one alone reads and
writes the run's folder; what it read reaches the others over the network. Masks change
in every process for itself, from the same gradients and the same random numbers, so
nothing is sent for it; once a phase their hashes are compared.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssvi_jax.core.command import BEFORE_FAILING
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks
from ssvi_jax.io.checkpoint import Restored
from ssvi_jax.io.snapshot import from_bytes, named, on_host, rebuild, table, to_bytes

# The first process evaluates after the training, when the others have nothing to do.
_SHUTDOWN_SECONDS = 24 * 3600

HURRY_SECONDS = 10.0
"""A process that an error ends waits so long for the others, which may have the same
one to tell; then it leaves, for they may wait for it."""

_OF_OTHERS = ("Gloo", "NCCL", "RCCL", "UNAVAILABLE", "heartbeat")
"""What errors say that come of another process."""


def start(coordinator: str | None, num_processes: int, process_id: int) -> None:
    """Joins the other processes; before anything else asks JAX for its devices.

    Without a coordinator it is SLURM (``srun``) or Open MPI (``mpirun``) that says who
    they are, if one of them started several; else this process is alone.

    Args:
      coordinator: ``HOST:PORT`` of the first process, where the port is free.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      InputError: the others did not come, or the launcher does not say who they are.
    """
    if coordinator is None and not is_launched():
        return
    given = coordinator is not None
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes if given else None,
            process_id if given else None,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--coordinator: got {coordinator}, but the processes did not meet "
            f"({str(error).splitlines()[0]}). Give each --coordinator HOST:PORT (of "
            "the first, a free port), --num-processes and its own --process-id."
        ) from error


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Says so if what fails inside fails because another process has ended.

    Raises:
      InputError: a message to or from another process failed.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:  # JAX raises either
        text = str(error)
        if not (_is_one_of_several() and any(name in text for name in _OF_OTHERS)):
            raise
        raise InputError(
            f"another process of this training has ended ({text.splitlines()[0]}); "
            "what is saved is kept. Start all of them again, with --resume."
        ) from error


def hurry(code: int) -> None:
    """Ends this process soon, also if others of its training do not; after an error.

    JAX waits at the exit for all processes, and they may wait for this one.
    """
    if _is_one_of_several():
        timer = threading.Timer(HURRY_SECONDS, os._exit, [code])
        timer.daemon = True
        timer.start()


BEFORE_FAILING.append(hurry)


def _is_one_of_several() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_launched() -> bool:
    """Whether SLURM or Open MPI started several processes of this command."""
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return any(int(os.environ.get(name, "1")) > 1 for name in sizes)


def is_first() -> bool:
    """Whether this is the process that reads and writes files."""
    return jax.process_index() == 0


def agreed(text: str) -> str:
    """The first process's text, in all of them."""
    return _broadcast(text.encode()).decode()


def from_first(
    read: Callable[[], Restored | None],
    like: Any,
    any_size: Callable[[str], bool] = lambda path: False,
) -> Restored | None:
    """What the first process reads, or refuses to read, in all of them.

    Args:
      read: reads a checkpoint; called in the first process only.
      like: see `snapshot.rebuild`.
      any_size: likewise.

    Raises:
      InputError: `read` did, in the first process.
    """
    if jax.process_count() == 1:
        return read()
    data, about = b"", {}
    if is_first():
        try:
            found = read()
        except InputError as error:
            about = {"error": str(error)}
        else:
            if found is not None:
                arrays = named(on_host(found.tree))
                data, leaves = to_bytes(arrays), table(arrays)
                about = {"step": found.step, "extra": found.extra, "leaves": leaves}
    about = json.loads(_broadcast(json.dumps(about).encode()))
    if "error" in about:
        raise InputError(about["error"])
    if not about:
        return None
    arrays = from_bytes(_broadcast(data), about["leaves"])
    tree = rebuild(like, arrays, any_size)
    return Restored(about["step"], tree, about["extra"])


def check_same(settings: Mapping[str, object], masks: Masks, signal: int = 0) -> int:
    """Compares the hashes of what must be the same everywhere; all processes call it.

    Args:
      settings: JSON values.
      masks: the selection.
      signal: number of a signal that asked this process to stop, or 0.

    Returns:
      The highest signal that any process got: they stop together.

    Raises:
      InputError: in every process, if anything differs in any of them.
    """
    if jax.process_count() == 1:
        return signal
    text = json.dumps(settings, sort_keys=True).encode()
    hashes = hashlib.sha256(text).digest() + hash_masks(masks)
    own = np.frombuffer(hashes + bytes([signal]), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(own))
    for i, name in enumerate(("settings", "masks")):
        part = found[:, 32 * i : 32 * (i + 1)]
        wrong = np.flatnonzero((part != part[0]).any(axis=1))
        if wrong.size:
            raise InputError(
                f"{name}: those of process {', '.join(map(str, wrong))} differ from "
                "those of process 0, needed: the same in all; give every process the "
                "same flags, data and version, and continue with --resume."
            )
    return int(found[:, -1].max())


def raise_together(own: InputError | None) -> None:
    """Stops all processes where one has to; all of them call it.

    A process that left alone would keep the others waiting for its part.

    Args:
      own: what went wrong in this process, if anything did.

    Raises:
      InputError: `own`, or that another process has one.
    """
    if own is None and jax.process_count() == 1:
        return
    failed = np.asarray(multihost_utils.process_allgather(np.array([own is not None])))
    if own is not None:
        raise own
    if failed.any():
        wrong = ", ".join(map(str, np.flatnonzero(failed.ravel())))
        raise InputError(
            f"process {wrong} cannot go on, and says why in its own output; all stop. "
            "Continue with --resume."
        )


def hash_masks(masks: Masks) -> bytes:
    """SHA-256 of a selection: paths, shapes and bits."""
    total = hashlib.sha256()
    for path, mask in sorted(masks.items()):
        total.update(f"{path} {mask.shape}\n".encode())
        total.update(np.packbits(mask).tobytes())
    return total.digest()


def _broadcast(content: bytes) -> bytes:
    """The first process's bytes; each of the others may have any of its own."""
    if jax.process_count() == 1:
        return content
    own = np.frombuffer(content, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(own.size)))
    sent = own if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes()
