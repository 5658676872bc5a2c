import importlib.util
import inspect
import re
import socket
import sys
import threading
import types

import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import NotPreparedError, download, load

CONNECT = socket.create_connection


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """No proxy, no data and no downloads: whatever would leave the machine fails."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(socket, "create_connection", refuse)


def refuse(address, timeout=None):
    raise OSError("no route to host")


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


def test_auto_does_not_pass_by_a_folder_that_was_named(tmp_path):
    with pytest.raises(NotPreparedError, match=f"not prepared in {tmp_path / 'data'}"):
        load("auto", tmp_path / "data", notify=print)


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
    monkeypatch.setattr(download, "has_network", lambda url=None: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.fixture
def prepared(monkeypatch, tmp_path, online):
    """Arguments of every builder whose `download_and_prepare` was called."""
    import tensorflow_datasets as tfds

    calls = []

    def builder(name, **arguments):
        return types.SimpleNamespace(
            download_and_prepare=lambda: calls.append({"name": name, **arguments})
        )

    monkeypatch.setattr(tfds, "builder", builder)
    for name in ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # restored afterwards
    return calls


def command(monkeypatch, *arguments):
    from ssvi_jax.data import prepare

    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    prepare.main()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped"])
def test_the_command_asks_tfds_for_array_records(tmp_path, monkeypatch, prepared, name):
    command(monkeypatch, name)
    asked = {"data_dir": tmp_path / "data", "file_format": "array_record"}
    assert prepared == [{"name": name, **asked}]


@pytest.mark.parametrize("extra", [False, True])
def test_the_command_prepares_every_cell_that_tfds_knows(
    tmp_path, monkeypatch, capsys, prepared, extra
):
    import tensorflow_datasets as tfds

    module = inspect.getmodule(tfds.builder_cls("cifar10_corrupted"))
    assert module is not None
    types_ = module.BENCHMARK_CORRUPTIONS + extra * module.EXTRA_CORRUPTIONS
    known = {f"cifar10_corrupted/{t}_{s}" for t in types_ for s in range(1, 6)}
    assert len(known) == (95 if extra else 75)
    done = "cifar10_corrupted/frosted_glass_blur_2"
    (tmp_path / "data" / done / "1.0.0").mkdir(parents=True)

    command(monkeypatch, "cifar10_corrupted", *(["--extra"] if extra else []))
    asked = [call["name"] for call in prepared]
    assert len(asked) == len(set(asked))
    assert set(asked) == known - {done}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"{number} of {len(known)}" for number in range(1, len(known) + 1)
    ]
    (line,) = (line for line in lines if done in line)
    assert "prepared already" in line
    assert sum("is being prepared" in line for line in lines) == len(known) - 1


def test_the_command_warns_without_a_network_and_tries(monkeypatch, capsys, prepared):
    monkeypatch.setattr(download, "has_network", lambda url: False)
    command(monkeypatch, "svhn_cropped")
    assert "No connection to http://ufldl.stanford.edu" in capsys.readouterr().out
    assert len(prepared) == 1


def test_the_command_needs_no_network_for_what_is_prepared(
    tmp_path, monkeypatch, capsys, prepared
):
    (tmp_path / "data/cifar10/3.0.2").mkdir(parents=True)
    monkeypatch.setattr(download, "has_network", pytest.fail)
    command(monkeypatch, "cifar10")
    assert prepared == []
    assert "cifar10 is prepared already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnist"], "invalid choice: 'mnist'"),
        (["cifar10", "--extra"], "--extra: got it with cifar10; only for cifar10_corr"),
    ],
)
def test_wrong_arguments_of_the_command(
    monkeypatch, capsys, prepared, arguments, words
):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *arguments)
    assert words in capsys.readouterr().err
    assert prepared == []


def test_the_command_without_tensorflow(monkeypatch, capsys, prepared):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, "svhn_cropped")
    assert (
        "needs TensorFlow: pip install 'ssvi_jax[prepare]'" in capsys.readouterr().err
    )
    assert prepared == []
