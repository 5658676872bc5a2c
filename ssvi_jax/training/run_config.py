"""The configuration of a training run: a method's settings, and three groups more.

Imports nothing heavy, so that a command line can be parsed and refused at once.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypeVar

import tyro

from ssvi_jax.core.errors import InputError, check_choice, check_seed
from ssvi_jax.core.settings import (
    Settings,
    fraction,
    not_negative,
    positive,
    setting,
)
from ssvi_jax.methods import METHODS, SSVI, Method
from ssvi_jax.training.recipes import Preset

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.sgd import Sgd
    from ssvi_jax.vi.execution import Execution

M = TypeVar("M", bound=Method)

NOT_COMPARED = frozenset(
    {"out", "resume", "data_dir", "preset", "samples", "figures", "average"}
    | {"devices", "coordinator", "num_processes", "process_id"}
)
"""Settings that may differ between a run and its continuation."""

TrainCorruption = Literal[
    "none",
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
]
"""`corruptions.NAMES` and "none", written out: that module would import NumPy."""


@dataclasses.dataclass(frozen=True)
class Training(Settings):
    """The network, the length of its training, and its optimizer."""

    model: Literal[
        "airbench",
        "convnet",
        "lstm",
        "mlp",
        "resnet18",
        "resnet34",
        "resnet50",
        "wrn28",
    ] = "convnet"
    """Architecture; wrn28 with --width 10 is WRN-28-10; lstm or mlp for mimic3."""
    width: float = setting(1.0, positive)
    """Factor on all hidden widths."""
    epochs: float = setting(10.0, positive)
    """Passes over the training set, to a whole phase; `laptop`: 60 where sparse
    kernels keep up to 5 %."""
    minutes: float = setting(0.0, not_negative)
    """Train so long instead: the first phases are timed, and the schedule gets the
    number of steps that fits; 0: by epochs."""
    batch_size: int = setting(128, positive)
    """Examples per step."""
    inner_steps: int = setting(100, positive)
    """M: gradient steps of a phase, between two swaps."""
    accumulate: int = setting(1, positive)
    """Compute each step in so many parts of its batch, where it needs too much memory;
    the same numbers, but for batch norm, which sees a part."""
    learning_rate: float = setting(0.2, positive)
    """Peak learning rate of means, biases and norms."""
    schedule: Literal["onecycle", "cosine", "constant", "steps"] = "onecycle"
    """Learning-rate schedule; steps: falls at --decay-at."""
    warmup: float = setting(0.0, fraction)
    """Fraction of the steps over which the rate rises from 0, whatever its schedule."""
    decay_at: tuple[float, ...] = ()
    """Rising fractions of the steps at which the rate of `steps` falls."""
    decay_factor: float = setting(0.1, positive)
    """What it is multiplied by there."""
    momentum: float = setting(0.9, fraction)
    """SGD momentum."""
    nesterov: bool = True
    """Nesterov momentum."""
    weight_decay: float = setting(5e-4, not_negative)
    """L2 on means, biases and norms, not on standard deviations."""
    backend: Literal["auto", "xla", "sparse"] = "auto"
    """sparse: compiled CPU kernels that visit kept weights only; auto: by device."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products in training; on the xla backend only."""
    devices: int = setting(1, not_negative)
    """Devices of each process that share a batch; 0: all that it has."""

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate: got {self.accumulate}, allowed: a number that divides "
                f"the batch size, {self.batch_size}."
            )
        if bool(self.decay_at) != (self.schedule == "steps"):
            raise InputError(
                f"decay_at: got {list(self.decay_at)} with schedule {self.schedule}, "
                "allowed: fractions with steps, none with others."
            )
        if self.precision != "float32" and self.backend == "sparse":
            raise InputError(
                f"precision: got {self.precision} with backend sparse, allowed: "
                "float32; use backend xla, or auto."
            )

    @property
    def training_backend(self) -> str:
        """What `backend` means for training: the sparse kernels are float32 only."""
        return self.backend if self.precision == "float32" else "xla"

    def optimizer(self) -> "Sgd":
        """The optimizer that these settings describe."""
        from ssvi_jax.methods.algorithms.sgd import Sgd

        values = {field.name: getattr(self, field.name) for field in _of_sgd(Sgd)}
        return Sgd(**{**values, "decay_at": tuple(self.decay_at)})

    def execution(self, *, streamed: bool = False) -> "Execution":
        """How these settings say that steps are computed."""
        from ssvi_jax.vi.execution import Execution

        return Execution(
            self.training_backend, self.devices, self.accumulate, streamed=streamed
        )


def _of_sgd(sgd: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(sgd)


@dataclasses.dataclass(frozen=True)
class Data(Settings):
    """The data set."""

    dataset: Literal[
        "auto", "cifar10", "cifar100", "digits", "imagenet2012", "mimic3"
    ] = "auto"
    """auto: CIFAR-10 if it is there or can be downloaded, else the embedded digits.
    imagenet2012: as TFDS prepares it, streamed from disk. mimic3: in-hospital
    mortality, from the benchmark's folder in --data-dir."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of sets prepared by TFDS (else $TFDS_DATA_DIR, ~/tensorflow_datasets)."""
    train_size: int = setting(0, not_negative)
    """Use only the first so many training images; 0: all."""
    shifts: Literal["zeros", "reflect"] = "zeros"
    """Random shifts of images: up to 4 pixels, black beyond; or up to 2, reflected."""
    train_corruption: Annotated[TrainCorruption, tyro.conf.arg(metavar="NAME")] = "none"
    """Corrupts training and validation images; tested on are clean and corrupted."""
    train_severity: int = 3
    """Severity of that corruption, 1 to 5."""

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        severity = self.train_severity
        if not 1 <= severity <= 5:
            raise InputError(f"train_severity: got {severity}, allowed: 1 to 5.")
        if self.train_corruption == "none" and severity != Data.train_severity:
            raise InputError(
                f"train_severity: got {severity} without a corruption; name one "
                "(train_corruption), or leave the severity out."
            )


if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Annotated[str, tyro.conf.arg(metavar="NAME")]


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """What is run, from where, and what it leaves."""

    method: MethodName = "ssvi"
    """What is trained (docs/methods.md); each has settings of its own."""
    preset: Annotated[Preset, tyro.conf.arg(metavar="NAME")] = "auto"
    """paper: authors' recipe; laptop: from half an hour on 2 cores; smoke: a minute;
    auto: by device (GPU, CPU). The others are the settings of papers, with method and
    data set (docs/recipes.md)."""
    seed: int = setting(0, not_negative)
    """Seed of everything random."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; default: a new one, runs/DATASET-METHOD-sSPARSITY."""
    resume: bool = False
    """Continue the run in that folder from its newest whole checkpoint."""
    samples: int = setting(10, positive)
    """Posterior samples per prediction at the end, of each member."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What predictions average over samples and members; the mutual information is
    that of averaged probabilities with either."""
    test_every: int = setting(0, not_negative)
    """Also evaluate the test set every so many epochs, for curves only; 0: never."""
    figures: bool = True
    """Draw the figures at the end."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """With several processes: a free port of the first one's host. Not needed under
    SLURM (srun) and Open MPI (mpirun)."""
    num_processes: int = 1
    """How many processes there are, with --coordinator."""
    process_id: int = 0
    """Which of them this one is, from 0, with --coordinator."""

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        check_choice("method", self.method, METHODS)
        check_seed("seed", self.seed)
        number, which = self.num_processes, self.process_id
        if self.coordinator is None and (number, which) != (1, 0):
            raise InputError(
                f"num_processes, process_id: got {number}, {which}, allowed without a "
                "coordinator: 1, 0; say with it where the first process is."
            )
        if not 0 <= which < number:
            raise InputError(
                f"process_id: got {which}, allowed: 0 to {number - 1}, one less than "
                "num_processes."
            )
        if self.coordinator is not None and ":" not in self.coordinator:
            raise InputError(
                f"coordinator: got {self.coordinator}, allowed: HOST:PORT."
            )


def _ssvi() -> Any:
    return SSVI()


_Group = tyro.conf.arg(help="")  # the title of a group of flags says enough


@dataclasses.dataclass(frozen=True)
class Config(Generic[M]):
    """Trains by --method. --preset replaces defaults shown here; flags win over it."""

    method: Annotated[M, _Group] = dataclasses.field(default_factory=_ssvi)
    training: Annotated[Training, _Group] = dataclasses.field(default_factory=Training)
    data: Annotated[Data, _Group] = dataclasses.field(default_factory=Data)
    run: Annotated[Run, _Group] = dataclasses.field(default_factory=Run)

    def __post_init__(self):
        if self.method.name != self.run.method:
            raise InputError(
                f"method: got {self.run.method} with the settings of "
                f"{self.method.name}, allowed: settings of the same method."
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Config":
        """A configuration from values by name, as `as_dict` gives them.

        What is missing has its default.

        Raises:
          InputError: an unknown method, a name that is not one of its settings, or a
            bad value.
        """
        name = values.get("method", Run.method)
        check_choice("method", str(name), METHODS)
        method = METHODS[str(name)]
        known = names_of(method)
        if unknown := [one for one in values if one not in known]:
            raise InputError(
                f"{unknown[0]}: no setting of the method {name}, allowed: "
                f"{', '.join(sorted(known))}."
            )
        groups: tuple[Any, ...] = (method, Training, Data, Run)
        return cls(*(group.of(values) for group in groups))

    def with_values(self, **values: Any) -> Self:
        """The same with other values of some settings, whatever group they are in.

        Raises:
          InputError: a name that is not one of its settings, or a bad value.
        """
        changed = type(self).of({**self.values(), **values})
        return changed  # type: ignore[return-value]

    def values(self) -> dict[str, Any]:
        """Name → value, of all groups; names are unique."""
        groups = (self.run, self.method, self.training, self.data)
        return {name: getattr(g, name) for g in groups for name in g.names()}

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values; paths as text, tuples as lists."""
        groups = (self.run, self.method, self.training, self.data)
        return {name: value for g in groups for name, value in g.as_dict().items()}


def names_of(method: type[Method]) -> set[str]:
    """Of all settings of a run with this method."""
    return {
        *method.names(),
        *(name for group in (Training, Data, Run) for name in group.names()),
    }


def default_folder(config: Config) -> Path:
    """A free folder under runs/, or with `resume` the newest one of that name.

    For example runs/cifar10-ssvi-s95, then runs/cifar10-ssvi-s95-2; with corrupted
    training images runs/cifar10-ssvi-s95-gaussian_noise-3.
    """
    percent = f"{100 * getattr(config.method, 'sparsity', 0.0):g}".replace(".", "_")
    densities = getattr(config.method, "densities", "")
    kept = Path(densities).stem if densities.endswith(".json") else f"s{percent}"
    base = Path("runs") / f"{config.data.dataset}-{config.run.method}-{kept}"
    if config.data.train_corruption != "none":
        shift = f"{config.data.train_corruption}-{config.data.train_severity}"
        base = base.with_name(f"{base.name}-{shift}")
    newest, number = base, 1
    free = base
    while free.exists():
        number += 1
        newest, free = free, base.with_name(f"{base.name}-{number}")
    return newest if config.run.resume else free
