"""Data that is not there: is there a network to fetch it, and what to do if not."""

import pathlib
import queue
import socket
import threading
import urllib.parse
import urllib.request

from ssvi_jax.core.errors import InputError

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
"""Page of both CIFAR sets."""


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
        fetched: str = "it is downloaded",
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
          fetched: what then happens.
          embedded: what to use where there is none.
        """
        self.reason = reason
        super().__init__(
            f"{argument}: {name} is not prepared in {root}, and {reason}.\n"
            "Three ways to get data:\n"
            f"  1. With a network, {again}: {fetched}.\n"
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
