"""Damaged checkpoints, and what a killed process leaves: the last whole one is used."""

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from checkpoint_states import (
    CONFIG,
    assert_same,
    filled,
    restored,
    state,
    steps_on_disk,
)

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import orbax_folder
from ssvi_jax.io.checkpoint import Checkpoints


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def kinds(folder: Path) -> dict[str, list[Path]]:
    """The files of one checkpoint, those with random names together by folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        random = len(name.name) == 32
        found.setdefault(str(name.parent / "*" if random else name), []).append(path)
    return found


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("two") / "checkpoints")


FILES = [
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    "meta/commit_success.txt",
    "meta/metadata",
    "sha256sums",
    "state/_METADATA",
    "state/commit_success.txt",
    "state/d/*",
    "state/manifest.ocdbt",
    "state/ocdbt.process_0/d/*",
    "state/ocdbt.process_0/manifest.ocdbt",
]


def test_every_file_of_a_checkpoint_is_damaged_below(two_checkpoints):
    assert sorted(kinds(two_checkpoints / "200")) == FILES


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("kind", FILES)
def test_damage_is_noticed_and_the_one_before_used(
    two_checkpoints, tmp_path, kind, damage
):
    """Whatever happens to a file: also to one that Orbax would not miss."""
    folder = shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    for path in kinds(folder / "200")[kind]:
        damage(path)
    told: list[str] = []
    with Checkpoints(folder, CONFIG, notify=told.append) as saved:
        step, tree, extra = restored(saved, state())
        assert_same(tree, state(100))
        assert (step, extra) == (100, {"epoch": 1.0})
        saved.save(200, state(1), {"epoch": 2.0})
    (text,) = told
    assert text.startswith(f"The checkpoint {folder / '200'} is damaged (")
    assert "\n" not in text
    with Checkpoints(folder, CONFIG) as saved:
        assert restored(saved, state()).step == 200


def test_a_damaged_checkpoint_does_not_push_out_a_sound_one(tmp_path):
    folder = filled(tmp_path, (1, 2, 3))
    flip(folder / "3" / "meta" / "metadata")
    with Checkpoints(folder, CONFIG, notify=lambda _: None) as saved:
        assert restored(saved, state()).step == 2
        saved.save(4, state())
    assert steps_on_disk(folder) == [1, 2, 4]


def test_the_list_of_checksums_is_that_of_sha256sum(two_checkpoints):
    folder = two_checkpoints / "200"
    lines = (folder / "sha256sums").read_text().splitlines()
    names = [line[66:] for line in lines]
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != "sha256sums"]
    assert sorted(names) == sorted(str(p.relative_to(folder)) for p in found)
    for line, name in zip(lines, names, strict=True):
        assert line[:66] == f"{sha256((folder / name).read_bytes()).hexdigest()}  "


def test_hidden_files_of_others_do_not_matter(tmp_path):
    folder = filled(tmp_path)
    (folder / "200" / "state" / ".DS_Store").write_text("")
    with Checkpoints(folder, CONFIG) as saved:
        assert restored(saved, state()).step == 200


def test_all_damaged(tmp_path, caplog):
    folder = filled(tmp_path)
    for step in (100, 200):
        shutil.rmtree(folder / str(step) / "state")
    with Checkpoints(folder, CONFIG) as saved:
        with pytest.raises(InputError, match=r"every checkpoint .* \(steps 100, 200\)"):
            restored(saved, state())
    assert caplog.text.count("is damaged") == 2


def test_swapped_arrays_are_noticed(tmp_path):
    """Files that are sound one by one, but from two checkpoints."""
    folder = filled(tmp_path)
    shutil.rmtree(folder / "200" / "state")
    shutil.copytree(folder / "100" / "state", folder / "200" / "state")
    told: list[str] = []
    with Checkpoints(folder, CONFIG, notify=told.append) as saved:
        assert restored(saved, state()).step == 100
    assert "checksum" in told[0]


def test_altered_metadata_is_noticed(tmp_path):
    folder = filled(tmp_path)
    path = folder / "200" / "meta" / "metadata"
    altered = path.read_text().replace('"epoch": 2.0', '"epoch": 3.0')
    assert altered != path.read_text()
    path.write_text(altered)
    with Checkpoints(folder, CONFIG, notify=lambda _: None) as saved:
        assert restored(saved, state()).step == 100


def test_an_interrupted_save_is_cleared(tmp_path):
    folder = filled(tmp_path)
    shutil.copytree(folder / "200", folder / "unfinished" / "300.orbax-checkpoint-tmp")
    shutil.copytree(folder / "200", folder / "unfinished" / "300")
    with Checkpoints(folder, CONFIG) as saved:
        assert restored(saved, state()).step == 200
        saved.save(300, state())
    assert steps_on_disk(folder) == [100, 200, 300]


def test_what_cannot_be_read_back_displaces_nothing(tmp_path, monkeypatch):
    """Orbax saves no arrays into a folder with brackets in its path."""
    folder = filled(tmp_path / "[1]", (1, 2, 3))
    monkeypatch.setattr(orbax_folder, "_SAFE", re.compile(".*"))
    with Checkpoints(folder, CONFIG) as saved:
        restored(saved, state())
        for _ in range(2):
            saved.save(4, {"x": np.arange(3)})
            with pytest.raises(InputError, match="could not be written"):
                saved.wait()
        assert saved.steps == [1, 2, 3]
    with Checkpoints(folder, CONFIG) as saved:
        assert restored(saved, state()).step == 3
    assert steps_on_disk(folder) == [1, 2, 3]


def test_what_reads_back_differently_displaces_nothing(tmp_path, monkeypatch):
    folder = filled(tmp_path, (1, 2, 3))
    with Checkpoints(folder, CONFIG) as saved:
        restored(saved, state())
        found = {"meta": {"leaves": {}}, "state": {"x": np.arange(3) + 1}}
        monkeypatch.setattr(saved._files._orbax, "restore", lambda *_, **__: found)
        saved.save(4, {"x": np.arange(3)})
        with pytest.raises(InputError, match="written reads back differently"):
            saved.wait()
    assert {1, 2, 3} == {*Checkpoints(folder, CONFIG).steps}


KILLED = """
import os, sys
import numpy as np
from ssvi_jax.io import orbax_folder
from ssvi_jax.io.checkpoint import Checkpoints

left = [3]

def kill(event, args):
    if event == "os.remove" and os.path.isdir(os.path.join(sys.argv[1], "4")):
        left[0] -= 1
        if not left[0]:
            os._exit(9)

with Checkpoints(sys.argv[1], {}) as saved:
    for step in (1, 2, 3):
        saved.save(step, {"x": np.arange(3) * step})
    saved.wait()
    sys.addaudithook(kill)
    saved.save(4, {"x": np.arange(3) * 4})
"""


def test_a_checkpoint_is_never_seen_half_deleted(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command).returncode == 9
    with Checkpoints(tmp_path, {}, read_only=True) as saved:
        assert saved.steps == [2, 3, 4]
    with Checkpoints(tmp_path, {}) as saved:
        assert restored(saved, {"x": np.arange(3)}).step == 4
    assert steps_on_disk(tmp_path) == [2, 3, 4]


@pytest.fixture
def one_too_many(tmp_path):
    """As left by a process killed between a save and the deletion after it."""
    folder = filled(tmp_path / "checkpoints", (1, 2, 3))
    shutil.copytree(folder / "1", tmp_path / "1")
    with Checkpoints(folder, CONFIG) as saved:
        restored(saved, state())
        saved.save(4, state())
    assert steps_on_disk(folder) == [2, 3, 4]
    shutil.move(tmp_path / "1", folder / "1")
    return folder


def test_resuming_deletes_what_a_killed_process_had_no_time_to(one_too_many):
    """A run that is finished saves nothing more that would delete it."""
    with Checkpoints(one_too_many, CONFIG) as saved:
        assert restored(saved, state()).step == 4
        assert steps_on_disk(one_too_many) == saved.steps == [2, 3, 4]


def test_reading_deletes_nothing(one_too_many):
    with Checkpoints(one_too_many, CONFIG, read_only=True) as saved:
        assert restored(saved, state()).step == 4
    assert steps_on_disk(one_too_many) == [1, 2, 3, 4]


def test_one_too_many_is_kept_while_the_newest_is_damaged(one_too_many):
    flip(one_too_many / "4" / "meta" / "metadata")
    with Checkpoints(one_too_many, CONFIG, notify=lambda _: None) as saved:
        assert restored(saved, state()).step == 3
        assert steps_on_disk(one_too_many) == [1, 2, 3, 4]
        saved.save(4, state())
    assert steps_on_disk(one_too_many) == [2, 3, 4]
