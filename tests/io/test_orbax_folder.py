"""Folders of checkpoints whose paths hold whatever the file system allows."""

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_states import CONFIG, assert_same, filled, restored, state

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import orbax_folder
from ssvi_jax.io.checkpoint import Checkpoints

NAMES = ["exp[1]", "a*b", "a**b", "[!a]", "q?x", "ü x", "100%", "%41", "~a", "$HOME"]
TENSORSTORE_CANNOT = ["back\\slash", os.fsdecode(b"\xff")]
"""What no path that is given to TensorStore may hold."""


@pytest.mark.parametrize("name", [*NAMES, *TENSORSTORE_CANNOT])
def test_the_path_of_a_folder_may_hold_anything(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    try:
        folder.mkdir(parents=True)
    except OSError:
        pytest.skip("no such name on this file system")
    filled(folder, (1, 2, 3, 4, 5))
    told: list[str] = []
    with Checkpoints(folder, CONFIG, notify=told.append, read_only=True) as saved:
        assert saved.steps == [3, 4, 5]
        step, tree, _ = restored(saved, state())
    assert (step, told) == (5, [])
    assert_same(tree, state(5))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name not in TENSORSTORE_CANNOT:
        with ocp.StandardCheckpointer() as reader:
            got = reader.restore(folder / "4" / "state")
        np.testing.assert_array_equal(got["raw_key"], state(4)["raw_key"])


def test_a_pattern_in_a_path_matches_no_other_folder(tmp_path):
    """Orbax would merge what lies in both folders."""
    filled(tmp_path / "axb")
    folder = filled(tmp_path / "a*b", (100,))
    with Checkpoints(folder, CONFIG) as saved:
        assert_same(restored(saved, state()).tree, state(100))


def test_a_folder_that_is_not_there_is_read_as_empty(tmp_path):
    with Checkpoints(tmp_path / "none", CONFIG, read_only=True) as saved:
        assert saved.steps == []
        assert saved.restore(state()) is None
    assert list(tmp_path.iterdir()) == []


def test_links_for_unusual_paths_do_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    filled(tmp_path / "[1]")
    assert [path.name for path in tmp_path.iterdir()] == ["[1]"]


def test_temporary_folder_of_an_unusual_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(orbax_folder, "_SAFE", re.compile("nothing"))
    with pytest.raises(InputError, match="TMPDIR: got"):
        filled(tmp_path / "checkpoints")


def test_what_threads_of_a_failed_save_write_late_is_deleted_later(
    tmp_path, monkeypatch
):
    """They add files to a folder while it is deleted, so that it is not empty."""
    real = shutil.rmtree

    def late(path, *args, **kwargs):
        (Path(path) / "late").mkdir(parents=True, exist_ok=True)
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    monkeypatch.setattr(shutil, "rmtree", late)
    filled(tmp_path, (1, 2))
    assert (tmp_path / "unfinished" / "late").exists()
    monkeypatch.setattr(shutil, "rmtree", real)
    with Checkpoints(tmp_path, CONFIG) as saved:
        assert saved.steps == [1, 2]
    assert not (tmp_path / "unfinished").exists()
