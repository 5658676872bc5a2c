"""Options of a corruption evaluation; imports nothing heavy."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssvi_jax.core.errors import InputError, check_count, check_images, check_seed

_Paths = Annotated[
    tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PATH")
]

NOT_COMPARED = frozenset({"out", "resume", "data_dir", "baseline"})
"""Options that may differ between an evaluation and its continuation."""


@dataclasses.dataclass(frozen=True)
class ShiftConfig:
    """Evaluates trained models on clean, corrupted and out-of-distribution images.

    Without --run, --model or --checkpoint it takes the newest run under --out, or
    trains the smoke model first. Several models come into one report.
    """

    run: _Paths = ()
    """Folder of a finished run; may be given several times."""
    model: _Paths = ()
    """Model file (model.ssvi); may be given several times."""
    checkpoint: _Paths = ()
    """Run folder whose best checkpoint is taken; may be given several times."""
    baseline: str | None = None
    """Model that corruption errors are relative to (mCE), by the name of its folder;
    default: the first deterministic one of several, else the first."""

    dataset: Literal["auto", "cifar10", "cifar100", "digits"] = "auto"
    """auto: the one that the models were trained on."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of sets prepared by TFDS (else $TFDS_DATA_DIR, ~/tensorflow_datasets)."""
    corruptions_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the official .npy files, of any number of images; else the sets
    prepared by TFDS; else corruptions are made from the test images."""
    extra: bool = False
    """Also the four extra corruptions; never part of an average."""
    ood: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SET")
    ] = ()
    """Out-of-distribution set: auto, none, cifar10, cifar100, svhn, photos, digits,
    noise, or an .npz file of images; may be given several times; default: auto."""
    images: int = 0
    """Use only the first so many images of every set; 0: all."""

    samples: int = 10
    """Posterior samples per prediction."""
    seed: int = 0
    """Seed of the samples and of corruptions that are made."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Folder of runs; the report goes to a new folder DIR/corruptions."""
    resume: bool = False
    """Continue the newest evaluation there: what is predicted is not done again."""

    def __post_init__(self):
        check_count("--samples", self.samples)
        check_images("--images", self.images)
        check_seed("--seed", self.seed)
        if "none" in self.ood and len(self.ood) > 1:
            raise InputError(
                f"--ood: got {', '.join(self.ood)}, allowed: none alone, or sets."
            )

    @property
    def ood_names(self) -> tuple[str, ...]:
        """Out-of-distribution sets by name; empty: none."""
        return () if self.ood == ("none",) else self.ood or ("auto",)

    def as_dict(self) -> dict[str, object]:
        """Field → JSON value; paths as text."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
