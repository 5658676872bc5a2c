"""Gets a missing CIFAR set: is there a network, and if so prepare it in a subprocess.

TFDS retries for minutes without a network, and preparing needs TensorFlow, which takes
the memory of a GPU: so the network is probed first, and TensorFlow never enters the
training process.
"""

import importlib.util
import pathlib
import queue
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable

from ssvi_jax.core.errors import InputError

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
"""Where TFDS downloads both CIFAR sets from."""


class NotPreparedError(InputError):
    """A data set that is not on this machine and cannot be brought to it now.

    Attributes:
      reason: what stood in the way, in one line.
    """

    def __init__(
        self,
        name: str,
        root: pathlib.Path,
        reason: str,
        *,
        argument: str = "dataset",
        again: str = "run the same command again",
        embedded: str = "--dataset digits: real handwritten digits that need no "
        "download",
    ) -> None:
        """Says what is missing where, why, and the three ways to get it.

        Args:
          name: what TensorFlow Datasets calls the set.
          root: folder of prepared sets.
          reason: what stood in the way, in one line.
          argument: the argument that asked for it.
          again: what to do where there is a network.
          embedded: what to use where there is none.
        """
        self.reason = reason
        super().__init__(
            f"{argument}: {name} is not prepared in {root}, and {reason}.\n"
            "Three ways to get data:\n"
            f"  1. With a network, {again}: TensorFlow Datasets "
            "downloads and prepares it.\n"
            f"  2. Copy the folder {name}/ from where TensorFlow Datasets has prepared "
            "it, and pass the folder that contains it with --data-dir or "
            "TFDS_DATA_DIR.\n"
            f"  3. Use {embedded}."
        )


def has_network(url: str = URL, timeout: float = 5.0) -> bool:
    """Whether the host of `url`, or the proxy in front of it, takes a connection.

    Resolving a name can hang far longer than any socket's timeout, so the attempt
    runs in a daemon thread that is left behind when `timeout` seconds have passed.
    """
    answer: queue.Queue[bool] = queue.Queue()

    def attempt() -> None:
        try:
            socket.create_connection(_endpoint(url), timeout=timeout).close()
            answer.put(True)
        except (OSError, ValueError):  # ValueError: a proxy that is no address
            answer.put(False)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return answer.get(timeout=timeout)
    except queue.Empty:
        return False


def _endpoint(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return host, port
    parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or 80


def prepare(name: str, root: pathlib.Path, notify: Callable[[str], object]) -> None:
    """Downloads `name` into `root` and prepares it, showing TFDS's own progress.

    Args:
      name: ``"cifar10"`` or ``"cifar100"``.
      root: folder of prepared sets; made when missing.
      notify: called with one line before the download starts.

    Raises:
      NotPreparedError: no network, no TensorFlow, or TFDS failed.
    """
    if not has_network():
        host = urllib.parse.urlsplit(URL).hostname
        raise _not_prepared(name, root, f"there is no network to {host}")
    if importlib.util.find_spec("tensorflow") is None:
        reason = "preparing it needs TensorFlow (pip install tensorflow)"
        raise _not_prepared(name, root, reason)
    notify(f"Downloading and preparing {name} in {root} (some 170 MB; once only).")
    command = [sys.executable, "-m", "ssvi_jax.data.prepare", name]
    done = subprocess.run([*command, "--data-dir", str(root)], check=False)
    if done.returncode != 0:
        reason = "TensorFlow Datasets could not prepare it (its message is above)"
        raise _not_prepared(name, root, reason)


def _not_prepared(name: str, root: pathlib.Path, reason: str) -> NotPreparedError:
    for leftover in sorted(root.glob(f"{name}/incomplete.*"))[:1]:
        reason += f"; {leftover} is left from an interrupted preparation: delete it"
    return NotPreparedError(name, root, reason)
