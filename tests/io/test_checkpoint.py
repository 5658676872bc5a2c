"""Checkpoints survive kills and damage, and come back bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_states import (
    CONFIG,
    Opposite,
    assert_same,
    filled,
    restored,
    state,
    steps_on_disk,
)

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import checkpoint
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.io.snapshot import (
    from_bytes,
    named,
    on_host,
    rebuild,
    table,
    to_bytes,
)


def test_restores_bit_for_bit(tmp_path):
    tree = state(7)
    tree["nan"] = np.array([np.nan, -0.0, 1e-42, np.inf], np.float32)
    extra = {"epoch": 1 / 3, "position": [1, None], "rng": 2**127 + 1}
    with Checkpoints(tmp_path, CONFIG) as saved:
        assert saved.restore(like=tree) is None
        saved.save(3, tree, extra, score=0.5)
    with Checkpoints(tmp_path, CONFIG) as saved:
        step, got, got_extra = restored(saved, jax.tree.map(jnp.zeros_like, tree))
    assert (step, got_extra) == (3, extra)
    leaves = jax.tree.map(jnp.asarray, tree)
    assert_same(jax.tree.map(jnp.asarray, got), leaves)
    assert_same(round_trip(tree, tree), tree)


def round_trip(like, tree, any_size=lambda path: False):
    """Through bytes and a table that went by way of JSON, as between processes."""
    arrays = named(on_host(tree))
    leaves = json.loads(json.dumps(table(arrays)))
    return rebuild(like, from_bytes(to_bytes(arrays), leaves), any_size)


def test_masks_take_two_bits_a_weight_at_most(tmp_path):
    """As plain boolean arrays, which Orbax compresses; here without any pattern."""
    masks = {"kernel": np.random.default_rng(0).random((64, 64, 3, 3)) < 0.5}
    with Checkpoints(tmp_path, {}) as saved:
        saved.save(1, masks)
    files = [p for p in (tmp_path / "1" / "state").rglob("*") if p.is_file()]
    assert 8 * sum(path.stat().st_size for path in files) < 2 * masks["kernel"].size


# A value that equals the fill value of an array on disk, but for its sign or payload.
ZEROS = np.array([-0.0] * 5, np.float32)
PAYLOAD = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)


def test_plain_orbax_opens_the_tree_as_it_is(tmp_path):
    """The arrays by the names that they have in the program."""
    tree = state(3)
    tree |= {"z": ZEROS, "nan": PAYLOAD, "pair": (np.arange(2), np.int8(3))}
    with Checkpoints(tmp_path, CONFIG) as saved:
        saved.save(7, tree, {"epoch": 1})
    for reader in (ocp.StandardCheckpointer(), ocp.PyTreeCheckpointer()):
        got = reader.restore(tmp_path / "7" / "state")
        assert {*got} == {*tree}
        assert got.pop("no_elements") is got.pop("no_mask") is None
        np.testing.assert_array_equal(got.pop("key"), jax.random.key_data(tree["key"]))
        found = named(got)
        assert len(found) == 12
        assert {"posterior/block1~1conv~1kernel/mean", "pair/0", "pair/1"} <= {*found}
        want = named(on_host(tree))
        for path, array in found.items():
            assert isinstance(array, np.ndarray)
            assert array.dtype == want[path].dtype
            assert array.shape == want[path].shape
            assert array.tobytes() == want[path].tobytes()
    with ocp.CheckpointManager(tmp_path) as manager:
        assert manager.all_steps() == [7]
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        assert manager.restore(7, args=args)["meta"]["extra"] == {"epoch": 1}


def test_plain_orbax_restores_the_programs_own_types(tmp_path):
    tree = {"g": Opposite(np.arange(3.0), np.ones(3)), "o": (np.ones(1), [np.ones(2)])}
    with Checkpoints(tmp_path, CONFIG) as saved:
        saved.save(1, tree)
    with ocp.StandardCheckpointer() as reader:
        assert_same(reader.restore(tmp_path / "1" / "state", tree), tree)


ODD = {
    "a/b": {"c": np.arange(2)},
    "a": {"b": {"c": np.arange(3)}, "b/c": np.arange(4), "~1": np.arange(5)},
    "a~1b": {"c": np.arange(6)},
    "[x] *": {"": np.arange(7), "..": np.arange(8), "x.y": np.arange(9)},
    "0": {".zarray": np.arange(10), "ü": np.arange(11)},
}


def test_names_may_hold_anything(tmp_path):
    assert_same(round_trip(ODD, ODD), ODD)
    with Checkpoints(tmp_path, CONFIG) as saved:
        saved.save(1, ODD)
        assert_same(restored(saved, ODD).tree, ODD)
    with ocp.StandardCheckpointer() as reader:
        assert_same(reader.restore(tmp_path / "1" / "state"), ODD)


def test_names_that_orbax_takes_for_the_same_are_refused(tmp_path):
    """Orbax itself would save one of the two arrays and say nothing."""
    tree = {"a.b": np.arange(2), "a": {"b": np.arange(3)}}
    with pytest.raises(InputError, match=r"a.b and a/b|a/b and a\.b"):
        with Checkpoints(tmp_path, CONFIG) as saved:
            saved.save(1, tree)
    assert steps_on_disk(tmp_path) == []


def test_leaves_keep_their_places():
    """Also where the order of names is not that of the tree: 10 sorts before 2."""
    tree = {
        "list": [np.full(i, i) for i in range(12)],
        "named": Opposite(np.arange(3), np.ones(2)),
    }
    got = round_trip(tree, tree)
    assert_same(got, tree)
    got["list"][3][:] = 0  # the caller's own


def test_snapshot_shares_no_memory_with_the_state():
    tree = {"a": jnp.arange(4096.0)}
    host = on_host(tree)
    got = rebuild(tree, host)
    assert not np.shares_memory(host["a"], np.asarray(tree["a"]))
    assert not np.shares_memory(host["a"], np.asarray(got["a"]))


def test_state_may_be_donated_right_after_save(tmp_path):
    step_fn = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    x = jnp.arange(300_000.0)
    want = {}
    with Checkpoints(tmp_path, CONFIG) as saved:
        for step in range(3):
            want[step] = np.array(x, copy=True)
            saved.save(step, {"x": x})
            x = step_fn(x)
            x.block_until_ready()
        for step in (2, 1, 0):
            got = restored(saved, {"x": want[0]})
            np.testing.assert_array_equal(got.tree["x"], want[step])
            saved._files.delete(step)


@pytest.mark.parametrize("best", [1, 2, 5, 8])
def test_keeps_the_last_three_and_the_best(tmp_path, best):
    with Checkpoints(tmp_path, CONFIG) as saved:
        for step in range(1, 9):
            saved.save(step, {"x": np.arange(3)}, score=0.9 if step == best else 0.1)
            saved.wait()
            latest = set(range(max(1, step - 2), step + 1))
            top = best if step >= best else 1
            assert steps_on_disk(tmp_path) == sorted(latest | {top}) == saved.steps
    with Checkpoints(tmp_path, CONFIG) as saved:
        assert restored(saved, {"x": np.arange(3)}, best=True).step == best
        assert restored(saved, {"x": np.arange(3)}).step == 8


def test_the_best_is_still_known_after_a_restart(tmp_path):
    like = {"x": np.arange(3)}
    for step, score in [(1, 0.2), (2, 0.8), (3, 0.8), (4, None), (5, 0.1), (6, 0.3)]:
        with Checkpoints(tmp_path, CONFIG) as saved:
            saved.restore(like)
            saved.save(step, like, score=score)
    assert steps_on_disk(tmp_path) == [2, 4, 5, 6]


def test_a_saved_step_is_not_written_again(tmp_path):
    with Checkpoints(tmp_path, CONFIG) as saved:
        saved.save(1, {"x": np.array([1.0])}, {"n": 1})
        saved.save(1, {"x": np.array([1.0])}, {"n": 2})
        assert restored(saved, {"x": np.array([0.0])}).extra == {"n": 1}


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_score_must_be_finite(tmp_path, score):
    with Checkpoints(tmp_path, CONFIG) as saved:
        with pytest.raises(InputError, match="score: got"):
            saved.save(1, {"x": np.arange(3)}, score=score)


def test_another_configuration_is_refused_with_the_differences(tmp_path):
    folder = filled(tmp_path)
    now = {"sparsity": 0.9, "optimizer": {"name": "sgd"}, "out": "b", "seed": 1}
    with Checkpoints(folder, now, ignore={"out"}) as saved:
        with pytest.raises(InputError) as error:
            restored(saved, state())
        with pytest.raises(InputError, match=r"earlier run \(steps 100, 200\)"):
            saved.save(300, state())
    assert str(error.value).splitlines()[1:4] == [
        "  sparsity: saved 0.95, now 0.9",
        "  optimizer.momentum: saved 0.9, now nothing",
        "  seed: saved nothing, now 1",
    ]
    assert "out:" not in str(error.value)


def test_paths_and_tuples_in_a_configuration_equal_themselves(tmp_path):
    config = {"out": Path("runs"), "widths": (1, 2), "lam": float("inf")}
    for _ in range(2):
        with Checkpoints(tmp_path, config) as saved:
            saved.restore({"x": np.arange(3)})
            saved.save(1, {"x": np.arange(3)})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tree: tree | {"count": jnp.float32(1)}, "count: saved int32[], now fl"),
        (lambda tree: tree | {"raw_key": jnp.zeros(3)}, "raw_key: saved uint32[2], n"),
        (lambda tree: tree | {"new": jnp.zeros(3)}, "new: saved nothing, now float32"),
        (
            lambda tree: {"count": tree["count"]},
            "posterior/block1/conv/kernel/rho: saved float32[70], now nothing",
        ),
    ],
)
def test_another_model_is_refused(tmp_path, change, text):
    folder = filled(tmp_path, (1,))
    with Checkpoints(folder, CONFIG) as saved:
        with pytest.raises(InputError, match="of another model or method") as error:
            restored(saved, change(state()))
    assert f"  {text}" in str(error.value)


def test_of_another_format_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FORMAT", 3)
    folder = filled(tmp_path, (1,))
    monkeypatch.undo()
    with Checkpoints(folder, CONFIG) as saved:
        with pytest.raises(InputError, match="1 is of format 3, this version reads 2"):
            restored(saved, state())


def test_one_of_the_first_format_is_told(tmp_path):
    """It had no checksums of its files."""
    folder = filled(tmp_path)
    (folder / "200" / "sha256sums").unlink()
    told: list[str] = []
    with Checkpoints(folder, CONFIG, notify=told.append) as saved:
        assert restored(saved, state()).step == 100
    assert "without sha256sums, as an earlier version wrote it" in told[0]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(InputError, match="could not be written"):
            Checkpoints(folder, CONFIG)


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


SAVE_FOR_EVER = """
import itertools, sys
import numpy as np
from ssvi_jax.io.checkpoint import Checkpoints

with Checkpoints(sys.argv[1], {}) as saved:
    restored = saved.restore({"x": np.zeros(100_000), "y": np.zeros(2000)})
    for step in itertools.count(restored.step + 1 if restored else 0):
        x = np.random.default_rng(step).normal(size=100_000)
        saved.save(step, {"x": x, "y": x[:2000] * 2}, {"step": step}, score=step % 7)
        print(step, flush=True)
"""


def test_killed_while_saving(tmp_path):
    """What was committed before a kill −9 is whole; the run goes on from there."""
    like = {"x": np.zeros(100_000), "y": np.zeros(2000)}
    last = 0
    for num_saves in (2, 5, 9):
        process = python(SAVE_FOR_EVER, tmp_path)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(num_saves)]
        process.kill()
        process.communicate()
        told: list[str] = []
        with Checkpoints(tmp_path, {}, notify=told.append) as saved:
            step, tree, extra = restored(saved, like)
        want = np.random.default_rng(step).normal(size=100_000)
        np.testing.assert_array_equal(tree["x"], want)
        np.testing.assert_array_equal(tree["y"], want[:2000] * 2)
        assert told == []
        assert extra == {"step": step}
        assert step >= int(lines[-1]) - 1 >= last
        last = step


def test_imports_no_tensorflow_and_logs_nothing(tmp_path):
    code = (
        "import sys; import numpy as np\n"
        "from ssvi_jax.io.checkpoint import Checkpoints\n"
        "with Checkpoints(sys.argv[1], {}) as saved:\n"
        "    for step in range(6): saved.save(step, {'x': np.arange(3)})\n"
        "assert 'tensorflow' not in sys.modules and 'flax' not in sys.modules"
    )
    process = python(code, tmp_path)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_metadata_is_readable_json(tmp_path):
    folder = filled(tmp_path, (1,))
    meta = json.loads((folder / "1" / "meta" / "metadata").read_text())
    assert meta["config"] == CONFIG
    assert meta["leaves"]["masks/block1~1conv~1kernel"] == ["bool", [3, 3, 4, 5]]


def test_leaves_that_may_have_any_size_come_back_as_they_were(tmp_path):
    saved, like = ({"k": jnp.arange(n), "b": jnp.arange(2.0)} for n in (5, 3))
    assert_same(round_trip(like, saved, lambda p: p == "k"), saved)
    folder = tmp_path / "c"
    with Checkpoints(folder, CONFIG, any_size=lambda path: path == "k") as checkpoints:
        checkpoints.save(1, saved)
        assert_same(restored(checkpoints, like).tree, saved)
        for other in (
            {"k": jnp.ones(3)},
            {"k": jnp.ones((3, 1), int)},
            {"b": like["k"]},
        ):
            with pytest.raises(InputError, match="of another model or method"):
                checkpoints.restore(like | other)
    with Checkpoints(folder, CONFIG) as checkpoints:
        with pytest.raises(InputError, match=r"k: saved int32\[5\], now int32\[3\]"):
            checkpoints.restore(like)
