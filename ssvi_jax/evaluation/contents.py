"""What a model file, a run folder or a folder of checkpoints holds, without its data.

Nothing is built: kernels, masks and settings are read from the file alone, so networks
of a user's own are described as well as the library's.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.evaluation.run.table import format_bytes, format_ratio
from ssvi_jax.io import artifact, orbax_folder, run_files
from ssvi_jax.metrics import cost
from ssvi_jax.training import calibration

MODEL_FILE, CHECKPOINTS = "model.ssvi", "checkpoints"


@dataclasses.dataclass(frozen=True)
class Contents:
    """What was found.

    Attributes:
      path: where.
      kind: what it is, in words.
      facts: name → what is said of it, in the order to print.
      layers: kernel path, shape, weights kept; empty where no kernel is known.
      scores: split → network → metric, where a finished run has some.
    """

    path: str
    kind: str
    facts: dict[str, str]
    layers: list[tuple[str, tuple[int, ...], int]]
    scores: dict[str, dict[str, dict[str, float]]]


def read(path: Path) -> Contents:
    """What lies at a path.

    Raises:
      InputError: nothing, something else, or a damaged file.
    """
    if path.is_file():
        return _of_model(path, _summary_of(path))
    if not path.exists():
        raise InputError(
            f"path: got {path}, where there is nothing, allowed: a model file, the "
            "folder of a run, or one of checkpoints."
        )
    if (path / MODEL_FILE).is_file():
        summary = None
        if (path / "summary.json").is_file():
            summary = run_files.read_summary(path)
        return _of_model(path / MODEL_FILE, summary, kind="finished run")
    if (path / CHECKPOINTS).is_dir():
        return _of_checkpoints(path / CHECKPOINTS)
    if path.is_dir() and any(one.name.isdecimal() for one in path.iterdir()):
        return _of_checkpoints(path)
    raise InputError(
        f"path: got {path}, which holds neither {MODEL_FILE} nor checkpoints, allowed: "
        "a model file, the folder of a run, or one of checkpoints."
    )


def _summary_of(file: Path) -> Mapping[str, Any] | None:
    """The summary of the run whose model file this is; None: there is none of it."""
    if not (file.parent / "summary.json").is_file():
        return None
    summary = run_files.read_summary(file.parent)
    sizes = summary.get("model_file")
    named = sizes if isinstance(sizes, dict) else {}
    ours = (named.get("name"), named.get("bytes")) == (file.name, file.stat().st_size)
    return summary if ours else None


def _of_model(
    path: Path, summary: Mapping[str, Any] | None, kind: str = "model file"
) -> Contents:
    file = artifact.load(path)
    try:
        said = _said(file)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: what it says of its network is damaged ({str(error)[:100]}); "
            "write it anew."
        ) from error
    posterior, params, model_state = file.weights
    dense, rest = trees.split(params)
    layers = [
        (name, tuple(shape), len(posterior[name].mean))
        for name, shape in file.shapes.items()
    ]
    layers += [(name, leaf.shape, leaf.size) for name, leaf in dense.items()]
    other = cost.tree_bytes((rest, model_state))
    precision = "half precision where safe" if file.half else "every bit"
    gaussian = any(isinstance(one, Gaussian) for one in posterior.values())
    facts = {
        **said,
        "posterior": "Gaussian: mean and deviation of each weight kept"
        if gaussian
        else "none: weights are points",
        **_sparsity(layers),
        "size": f"{format_bytes(path.stat().st_size)}, {precision}",
        **_dense_sizes(layers, other, path.stat().st_size, gaussian=gaussian),
    }
    return Contents(str(path), kind, facts, layers, _scores(summary))


def _said(file: artifact.Artifact) -> dict[str, str]:
    """What a model file says of itself, beside its arrays."""
    about = dict(file.metadata.get("run", {}))
    step = file.metadata.get("step", about.get("step"))
    found = _training(about, step) | _network(file.config)
    calibration.check(about)
    if (factor := calibration.factor_in(about)) is not None:
        found["calibrated"] = f"sigma × {factor:.4g}"
    return found


def _of_checkpoints(folder: Path) -> Contents:
    files = orbax_folder.OrbaxFolder(folder.absolute(), read_only=True)
    try:
        steps = files.steps
        if not steps:
            raise InputError(f"path: got {folder}, which holds no whole checkpoint.")
        meta = files.read_meta(steps[-1])
        config, leaves, extra = meta["config"], meta["leaves"], meta["extra"]
        shapes = {
            name.partition("/")[2]: tuple(shape)
            for name, (_, shape) in leaves.items()
            if name.startswith("masks/")
        }
        kept = {name: leaves[f"state/posterior/{name}/mean"][1][0] for name in shapes}
        total, score = extra.get("total_steps", "?"), meta["score"]
        gaussian = any(f"state/posterior/{name}/rho" in leaves for name in shapes)
    except InputError:
        raise
    except Exception as error:  # Orbax raises whatever its readers raise
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise InputError(
            f"{folder}: its newest checkpoint cannot be read ({reason})."
        ) from error
    finally:
        files.close()
    # Of a network whose kernels are ordinary parameters there are no masks.
    prefix = "state/params/"
    dense = {
        name.removeprefix(prefix): tuple(shape)
        for name, (_, shape) in leaves.items()
        if name.startswith(prefix) and name.endswith("/kernel") and len(shape) > 1
    }
    layers = [(_plain(name), shape, kept[name]) for name, shape in shapes.items()]
    layers += [(name, shape, math.prod(shape)) for name, shape in dense.items()]
    facts = {
        **_training(config, None),
        "checkpoints": ", ".join(f"step {step}" for step in steps) + f" of {total}",
        "posterior": "Gaussian: mean and deviation of each weight kept"
        if gaussian
        else "none: weights are points",
        **_sparsity(layers),
        "size": f"{format_bytes(_bytes_in(folder / str(steps[-1])))}, the newest",
    }
    if isinstance(score, float):
        facts["validation"] = f"NLL {-score:.4f} nats, the newest"
    return Contents(str(folder), "checkpoints", facts, layers, {})


def _plain(name: str) -> str:
    """A kernel's path; in a checkpoint it is one name, with its "/" escaped."""
    return trees.unjoin(name)[0]


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _training(about: Mapping[str, Any], step: Any) -> dict[str, str]:
    """How it was trained, as far as the file says it."""
    found = {"method": str(about.get("method", "unknown"))}
    if step is not None:
        found["method"] += f", step {step}"
    if "dataset" in about:
        found["data"] = str(about["dataset"])
    elif "num_data" in about:
        found["data"] = f"{about['num_data']} examples"
    if "model" in about:
        found["network"] = f"{about['model']}, width {about.get('width', 1)}"
    return found


def _network(config: Mapping[str, Any]) -> dict[str, str]:
    """What a model file says of the network."""
    found = {}
    if "model" in config:
        shape = config.get("input_shape", config.get("image_shape"))
        found["network"] = (
            f"{config['model']}, width {config.get('width', 1)}; inputs {shape}, "
            f"{config.get('num_classes', '?')} classes"
        )
    elif "inputs" in config:
        shapes = ", ".join(str(shape) for shape, _ in config["inputs"])
        found["network"] = f"of the user's own; inputs {shapes}"
    likelihood = config.get("likelihood")
    if isinstance(likelihood, dict):
        found["likelihood"] = str(likelihood.get("name", "unknown"))
    structure = config.get("structure")
    structure = structure if isinstance(structure, dict) else config
    if structure.get("copies"):
        found["members"] = f"{structure['copies']} networks of their own"
    rank1 = structure.get("rank1")
    if isinstance(rank1, dict):
        found["members"] = f"{rank1.get('num_members', '?')}, rank-1 factors"
    return found


def _sparsity(layers: list[tuple[str, tuple[int, ...], int]]) -> dict[str, str]:
    total = sum(math.prod(shape) for _, shape, _ in layers)
    kept = sum(count for *_, count in layers)
    if not total:
        return {}
    return {
        "sparsity": f"{100 * (1 - kept / total):.2f} %; {kept:,} of {total:,} kernel "
        "weights kept"
    }


def _dense_sizes(
    layers: list[tuple[str, tuple[int, ...], int]],
    other: int,
    size: int,
    *,
    gaussian: bool,
) -> dict[str, str]:
    """What a dense network's float32 values would take, one or two a weight."""
    total = sum(math.prod(shape) for _, shape, _ in layers)
    dense = 4 * total + other
    found = {
        "dense": f"{format_bytes(dense)} in float32, {format_ratio(dense, size)} this"
    }
    if gaussian:
        both = 8 * total + other
        found["dense VI"] = f"{format_bytes(both)}, {format_ratio(both, size)} this"
    return found


def _scores(summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """Test scores of a summary, those that are numbers."""
    found: dict[str, Any] = {}
    for split in ("test", "test_corrupted"):
        networks = (summary or {}).get(split)
        for network, scores in networks.items() if isinstance(networks, dict) else ():
            if not isinstance(scores, dict):
                continue
            numbers = {
                name: float(value)
                for name, value in scores.items()
                if isinstance(value, int | float)
            }
            found.setdefault(split, {})[network] = numbers
    return found
