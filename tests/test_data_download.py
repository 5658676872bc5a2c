import importlib.util
import inspect
import re
import socket
import subprocess
import sys
import threading
import types

import pytest

from ssvi_jax.data import NotPreparedError, cifar, download, load
from ssvi_jax.errors import InputError

CONNECT = socket.create_connection


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """No proxy, no data and no downloads: whatever would leave the machine fails."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(subprocess, "run", no_subprocess)


def refuse(address, timeout=None):
    raise OSError("no route to host")


def no_subprocess(*_, **__):
    raise AssertionError("a subprocess was started")


# The probe ---------------------------------------------------------------------------


def test_an_open_port_is_a_network(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", CONNECT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        assert download.has_network(url)
    assert not download.has_network(url)


def test_refused_is_no_network():
    assert not download.has_network()


def test_a_name_look_up_that_hangs_is_no_network(monkeypatch):
    release = threading.Event()

    def hang(address, timeout):
        release.wait(10)  # who waits for this gets a connection, and fails
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not download.has_network(timeout=0.05)
    release.set()


def test_the_answer_comes_within_ten_seconds():
    timeout = inspect.signature(download.has_network).parameters["timeout"].default
    assert 0 < timeout < 10


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, ("host.org", 443)),
        ({"https_proxy": "http://proxy:3128"}, ("proxy", 3128)),
        ({"https_proxy": "proxy:3128"}, ("proxy", 3128)),
        ({"https_proxy": "http://proxy"}, ("proxy", 80)),
        ({"http_proxy": "http://proxy:3128"}, ("host.org", 443)),
        ({"https_proxy": "http://p:1", "no_proxy": "host.org"}, ("host.org", 443)),
    ],
)
def test_a_proxy_is_asked_in_place_of_the_host(monkeypatch, variables, endpoint):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not download.has_network("https://host.org/x")
    assert asked == [endpoint]


def test_a_proxy_that_is_no_address_is_no_network(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:port")
    assert not download.has_network("https://host.org/x")


# Without the data --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_no_network_names_the_three_ways(tmp_path, name):
    with pytest.raises(InputError) as caught:
        load(name, notify=pytest.fail)
    text = str(caught.value)
    assert f"{name} is not prepared in {tmp_path / 'data'}" in text
    assert "no network to www.cs.toronto.edu" in text
    assert "1. With a network" in text
    assert f"2. Copy the folder {name}/" in text
    assert "--data-dir or TFDS_DATA_DIR" in text
    assert "3. Use --dataset digits" in text


def test_auto_says_loudly_that_it_takes_the_digits():
    said = []
    data = load("auto", notify=said.append)
    assert data.name == "digits"
    assert len(said) == 1
    assert "DIGITS" in said[0]
    assert "no network" in said[0]
    assert "because CIFAR-10 was not available" in data.source
    assert "because" not in load("digits", notify=said.append).source
    assert len(said) == 1


def test_leftovers_of_an_interrupted_download_are_named(tmp_path):
    folder = tmp_path / "data/cifar10/incomplete.ABCDEF_3.0.2"
    folder.mkdir(parents=True)
    with pytest.raises(NotPreparedError, match=r"incomplete\.ABCDEF_3\.0\.2"):
        load("cifar10", notify=pytest.fail)


@pytest.mark.parametrize("inside", ["cifar10", "cifar10/3.0.2"])
@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_pointing_into_the_set_is_noticed(tmp_path, name, inside):
    root = tmp_path / "data"
    (root / "cifar10/3.0.2").mkdir(parents=True)
    with pytest.raises(InputError, match=f"pass {re.escape(str(root))}, the folder"):
        load(name, root / inside, notify=pytest.fail)


# Preparing ---------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(download, "has_network", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_prepares_in_a_subprocess(tmp_path, monkeypatch, online):
    calls, said = [], []

    def run(command, check):
        calls.append(command)
        (tmp_path / "data/cifar10/3.0.2").mkdir(parents=True)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cifar, "read", lambda folder: folder)
    monkeypatch.setattr("ssvi_jax.data._assemble", lambda raw, *_: raw.splits)
    assert load("cifar10", notify=said.append) == tmp_path / "data/cifar10/3.0.2"
    module = [sys.executable, "-m", "ssvi_jax.data.prepare"]
    assert calls == [[*module, "cifar10", "--data-dir", str(tmp_path / "data")]]
    assert len(said) == 1
    assert str(tmp_path / "data") in said[0]


def test_no_tensorflow_says_what_to_install(monkeypatch, online):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotPreparedError, match="pip install tensorflow"):
        load("cifar10", notify=pytest.fail)


def test_a_failed_preparation_is_an_error_and_auto_takes_the_digits(
    monkeypatch, online
):
    failed = types.SimpleNamespace(returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(NotPreparedError, match="could not prepare it"):
        load("cifar10", notify=lambda line: None)
    assert load("auto", notify=lambda line: None).name == "digits"


def test_the_command_asks_tfds_for_array_records(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from ssvi_jax.data import prepare

    asked = {}

    def builder(name, **arguments):
        asked.update(arguments, name=name)
        return types.SimpleNamespace(
            download_and_prepare=lambda: asked.update(prepared=True)
        )

    monkeypatch.setattr(tfds, "builder", builder)
    monkeypatch.setattr(sys, "argv", ["prepare", "cifar100"])
    for name in ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # restored afterwards
    prepare.main()
    assert asked == {
        "name": "cifar100",
        "data_dir": tmp_path / "data",
        "file_format": "array_record",
        "prepared": True,
    }
