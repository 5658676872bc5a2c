"""The author's archives of CIFAR: downloaded, checked, read in the official order."""

import hashlib
import io
import tarfile
import urllib.request

import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import NotPreparedError, archive, download, load, ood_sets

PER_FILE = 20


def content(name: str) -> tuple[bytes, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """An archive of few images, and what is in it."""
    known, rng, splits = archive.ARCHIVES[name], np.random.default_rng(0), {}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for split, names in known.members.items():
            images, labels = [], []
            for member in names:
                new = rng.integers(0, 256, (PER_FILE, 32, 32, 3), dtype=np.uint8)
                classes = np.arange(PER_FILE, dtype=np.uint8) % 10
                coarse = [classes[:, None] + 50] * (known.num_labels - 1)
                planes = new.transpose(0, 3, 1, 2).reshape(PER_FILE, -1)
                rows = np.concatenate([*coarse, classes[:, None], planes], axis=1)
                info = tarfile.TarInfo(member)
                info.size = rows.size
                tar.addfile(info, io.BytesIO(rows.tobytes()))
                images.append(new)
                labels.append(classes)
            splits[split] = np.concatenate(images), np.concatenate(labels)
    return file.getvalue(), splits


def pairs(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(i.tobytes(), int(c)) for i, c in zip(images, labels, strict=True)}


@pytest.fixture(params=archive.ARCHIVES)
def online(request, monkeypatch, tmp_path):
    """A set whose archive can be downloaded, and the bytes that come."""
    name = request.param
    data, splits = content(name)
    known = archive.ARCHIVES[name]
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(archive.ARCHIVES, name, known._replace(md5=md5))
    asked, answers = [], [data]

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(answers[-1])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(download, "has_network", lambda: True)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return name, splits, asked, answers


def test_a_set_is_downloaded_once_and_read_as_it_is(online, tmp_path):
    name, splits, asked, _ = online
    said: list[str] = []
    first = load(name, tmp_path, notify=said.append)
    again = load(name, tmp_path, notify=said.append)
    assert asked == [archive.URL + archive.ARCHIVES[name].file]
    assert len(said) == 1
    assert str(tmp_path) in said[0]
    assert archive.ARCHIVES[name].file in first.source
    for found in (first, again):
        np.testing.assert_array_equal(found.test_images, splits["test"][0])
        np.testing.assert_array_equal(found.test_labels, splits["test"][1])
        images = np.concatenate([found.train_images, found.val_images])
        labels = np.concatenate([found.train_labels, found.val_labels])
        assert len(images) == len(splits["train"][0])
        assert pairs(images, labels) == pairs(*splits["train"])
        assert found.test_labels.dtype == np.int32
    assert [p.name for p in (tmp_path / name).iterdir()] == [
        archive.ARCHIVES[name].file
    ]


def test_its_test_images_serve_as_foreign_ones(online, tmp_path):
    name, splits, _, _ = online
    load(name, tmp_path, notify=lambda line: None)
    images, source = ood_sets.prepared(tmp_path, name)
    np.testing.assert_array_equal(images, splits["test"][0])
    assert archive.ARCHIVES[name].file in source


def test_another_file_is_not_kept(online, tmp_path):
    name, _, _, answers = online
    answers.append(answers[0][:-7])
    with pytest.raises(NotPreparedError, match="could not be downloaded"):
        load(name, tmp_path, notify=lambda line: None)
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"x"], ids=["short", "changed"])
def test_a_damaged_archive_is_said(online, tmp_path, damage):
    name, *_ = online
    load(name, tmp_path, notify=lambda line: None)
    path = archive.path_of(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-40] + damage)
    with pytest.raises(InputError, match=r"damaged .*; delete it to download it again"):
        load(name, tmp_path, notify=pytest.fail)


def test_a_connection_that_breaks_is_no_traceback(monkeypatch, tmp_path):
    def urlopen(url, timeout):
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(download, "has_network", lambda: True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    said: list[str] = []
    assert load("auto", notify=said.append).name == "digits"
    assert "could not be downloaded (timed out)" in said[-1]
