"""The configuration of a training run: one frozen dataclass, and presets to start from.

Imports nothing heavy, so that a command line can be parsed and refused at once.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import tyro

from ssvi_jax.core.errors import (
    InputError,
    check_choice,
    check_fraction,
    check_positive,
)
from ssvi_jax.training import registry
from ssvi_jax.training.kinds import check_kind
from ssvi_jax.training.recipes import Preset

NOT_COMPARED = frozenset(
    {"out", "resume", "data_dir", "preset", "samples", "figures", "average"}
    | {"devices", "coordinator", "num_processes", "process_id"}
)
"""Fields that may differ between a run and its continuation."""

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


if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(registry.METHODS)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a sparse Bayesian network, evaluates it, and writes a run folder.

    Defaults shown are those of the `laptop` preset on CIFAR-10; `--preset` and
    `--dataset` change them, and every flag given wins over its preset.
    """

    sparsity: float = 0.95
    """Fraction of kernel weights that are exactly zero, in [0, 1); 0 is dense."""
    dataset: Literal[
        "auto", "cifar10", "cifar100", "digits", "imagenet2012", "mimic3"
    ] = "auto"
    """auto: CIFAR-10 if it is there or can be downloaded, else the embedded digits.
    imagenet2012: as TFDS prepares it, streamed from disk. mimic3: in-hospital
    mortality, from the benchmark's folder in --data-dir."""
    preset: Preset = "auto"
    """paper: authors' recipe; laptop: 30 min on 2 cores; auto: by device (GPU, CPU).
    The others are the settings of papers, with method and data set (docs/recipes.md).
    """
    method: MethodName = "ssvi"
    """Point estimates, trained with the same code: deterministic (dense), rigl, set,
    static (sparse), magnitude (dense, then pruned). svd: sparse variational dropout.
    ivon: dense, standard deviations by the Hessian. masked_bnn: masks sampled by MCMC.
    rank1, batch_ensemble: K members whose kernels differ by rank-1 factors. ensemble,
    ssvi_ensemble: K networks; ssvi_mixture: K posteriors on one mask."""
    model: Literal[
        "convnet", "lstm", "mlp", "resnet18", "resnet34", "resnet50", "wrn28"
    ] = "convnet"
    """Architecture; wrn28 with --width 10 is WRN-28-10; lstm or mlp for mimic3."""
    width: float = 1.0
    """Factor on all hidden widths; `laptop`: 3 where sparse kernels keep up to 5 %."""
    epochs: int = 10
    """Passes over the training set, to a whole phase; `laptop`: 22 at width 3."""
    batch_size: int = 128
    """Examples per step."""
    accumulate: int = 1
    """Compute each step in so many parts of its batch, where it needs too much memory;
    the same numbers, but for batch norm, which sees a part."""
    train_size: int = 0
    """Use only the first so many training images; 0: all."""
    train_corruption: TrainCorruption = "none"
    """Corrupts training and validation images; tested on are clean and corrupted."""
    train_severity: int = 3
    """Severity of that corruption, 1 to 5."""
    seed: int = 0
    """Seed of everything random."""

    densities: str = "erk"
    """uniform, er, erk, or a .json file {path: density} that sets sparsity as well;
    global (magnitude only): whatever layers the largest weights are in."""
    inner_steps: int = 100
    """M: gradient steps between two swaps."""
    replacement_rate: float = 0.3
    """Fraction of a layer's weights swapped at the first swap; 0: static masks."""
    replacement_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How that fraction falls."""
    replacement_end: float = 0.75
    """Fraction of the steps after which masks stay as they are."""
    removal: Literal[
        "abs_snr", "snr", "mean", "abs_mean", "exp_abs_mean", "exp_abs_snr"
    ] = "abs_snr"
    """Score whose lowest weights go."""
    removal_lambda: float = 1.0
    """λ of the exponential removal scores; sensible: 1 / size of a typical weight."""
    addition: Literal["gradient", "random"] = "gradient"
    """What decides which weights come."""
    grow_batches: int = 1
    """Batches that the dense gradient is averaged over; masked_bnn: number of moves."""
    grow_at_mean: bool = False
    """Take that gradient at the mean network instead of the sampled one."""
    growth_init: Literal["mean", "eps"] = "mean"
    """Standard deviation of new weights: the layer's mean, or 1e-6."""
    prune_at: float = 0.0
    """Fraction of the steps that are dense; magnitude: 0.5, svd: 0.9, others: 0."""
    spike_std: float = 3e-3
    """masked_bnn: size of weights that enter, and of those likely to leave."""

    estimator: Literal["local_reparam", "flipout", "weight_sample"] = "local_reparam"
    """Gradient estimator."""
    backend: Literal["auto", "xla", "sparse"] = "auto"
    """sparse: compiled CPU kernels that visit kept weights only; auto: by device."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products in training; on the xla backend only."""
    prior: Literal["gaussian", "scale_mixture", "laplace", "log_uniform"] = "gaussian"
    """Prior of every kept weight; log_uniform has no standard deviation."""
    prior_std: float = 0.1
    """Its standard deviation (the wider one of a mixture)."""
    kl_scale: float = 0.01
    """β: weight of the KL; 1 is the exact ELBO, below 1 a cold posterior."""
    kl_warmup: float = 0.5
    """Fraction of the steps over which β grows from 0."""
    mean_init: float = 0.0
    """Standard deviation of the initial means; 0: He initialization by fan-in."""
    sigma_init: float = 6e-4
    """Mean of the initial standard deviations; their spread is 5/6 of it."""
    hess_init: float = 0.5
    """ivon: initial Hessian h₀; σ² = 1 / (N (h + weight decay))."""
    beta2: float = 0.99999
    """ivon: how slowly the Hessian follows its estimates."""
    clip_radius: float = 0.0
    """ivon: largest change of a weight, over learning rate and h₀; 0: any."""

    members: int = 4
    """K: mixture components of rank1 and ssvi_mixture, members of all ensembles."""
    members_at_once: int = 0
    """Members of an ensemble in one vectorized step, the others wait; 0: all on a GPU
    or TPU, 1 on a CPU."""
    member_batch: Literal["split", "tile"] = "split"
    """split: each member sees batch-size / K of a batch; tile: each sees all of it, at
    K times the cost of a step."""
    bound: Literal["average", "mixture"] = "average"
    """average: of the members' log-likelihoods; mixture: log of their mean likelihood
    (needs tile)."""
    fast_posterior: Literal["gaussian", "cauchy"] = "gaussian"
    """Posterior of the factors of rank1."""
    fast_prior: Literal["gaussian", "cauchy", "half_cauchy", "inverse_gamma"] = (
        "gaussian"
    )
    """Prior of the factors around 1; the last two are priors of its scale."""
    fast_prior_scale: float = 0.1
    """Its standard deviation or scale."""
    fast_init: Literal["sign", "normal"] = "sign"
    """Initial factors: random signs, or N(1, 0.5²)."""
    fast_sign_probability: float = 0.5
    """Probability that such a sign is +."""
    fast_sigma_init: float = 0.0316
    """Initial standard deviation of the factors."""
    fast_relative_sigma: bool = False
    """Make it a multiple of the factor's abs mean, as Gaussian dropout does."""
    fast_rate_scale: float = 1.0
    """Learning rate of the factors' means over that of the kernels."""
    dropout_rate: float = 0.1
    """Probability that mc_dropout drops an input of a layer, in [0, 1)."""

    learning_rate: float = 0.2
    """Peak learning rate of means, biases and norms."""
    sigma_learning_rate: float = 0.2
    """Peak learning rate of the standard deviations' parameters."""
    schedule: Literal["onecycle", "cosine", "constant", "steps"] = "onecycle"
    """Learning-rate schedule; steps: falls at --decay-at."""
    warmup: float = 0.0
    """Fraction of the steps over which the rate rises from 0, whatever its schedule."""
    decay_at: tuple[float, ...] = ()
    """Rising fractions of the steps at which the rate of `steps` falls."""
    decay_factor: float = 0.1
    """What it is multiplied by there."""
    momentum: float = 0.9
    """SGD momentum."""
    nesterov: bool = True
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """L2 on means, biases and norms, not on standard deviations."""

    samples: int = 10
    """Posterior samples per prediction at the end, of each member."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What predictions average over samples and members."""
    test_every: int = 0
    """Also evaluate the test set every so many epochs, for curves only; 0: never."""
    devices: int = 1
    """Devices of each process that share a batch; 0: all that it has."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """With several processes: a free port of the first one's host. Not needed under
    SLURM (srun) and Open MPI (mpirun)."""
    num_processes: int = 1
    """How many processes there are, with --coordinator."""
    process_id: int = 0
    """Which of them this one is, from 0, with --coordinator."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of sets prepared by TFDS (else $TFDS_DATA_DIR, ~/tensorflow_datasets)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; default: a new one, runs/DATASET-METHOD-sSPARSITY."""
    resume: bool = False
    """Continue the run in that folder from its newest whole checkpoint."""
    figures: bool = True
    """Draw the figures at the end."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_kind(_flag(field.name), field.type, getattr(self, field.name))
        check_fraction("--sparsity", self.sparsity)
        check_fraction("--prune-at", self.prune_at)
        check_fraction("--dropout-rate", self.dropout_rate)
        check_fraction("--beta2", self.beta2)
        check_fraction("--warmup", self.warmup)
        for name in _FRACTIONS:
            check_fraction(_flag(name), getattr(self, name), one_allowed=True)
        for name in _POSITIVE:
            check_positive(_flag(name), getattr(self, name))
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(
                    f"{_flag(name)}: got {getattr(self, name)}, allowed: 0 or more."
                )
        check_fraction("--momentum", self.momentum)
        if self.seed >= 2**32:  # JAX would take it modulo 2^32
            raise InputError(f"--seed: got {self.seed}, allowed: 0 to 2^32 - 1.")
        for field in dataclasses.fields(self):
            if get_origin(field.type) is Literal:
                names = get_args(field.type)
                check_choice(_flag(field.name), getattr(self, field.name), names)
        self._check_severity()
        if self.batch_size % self.accumulate:
            raise InputError(
                f"--accumulate: got {self.accumulate}, allowed: a number that divides "
                f"--batch-size {self.batch_size}."
            )
        if bool(self.decay_at) != (self.schedule == "steps"):
            raise InputError(
                f"--decay-at: got {list(self.decay_at)} with --schedule "
                f"{self.schedule}, allowed: fractions with steps, none with others."
            )
        if self.precision != "float32" and self.backend == "sparse":
            raise InputError(
                f"--precision: got {self.precision} with --backend sparse, allowed: "
                "float32; use --backend xla, or auto."
            )
        self._check_processes()

    @property
    def training_backend(self) -> str:
        """What `backend` means for training: the sparse kernels are float32 only."""
        return self.backend if self.precision == "float32" else "xla"

    def _check_severity(self):
        severity = self.train_severity
        if not 1 <= severity <= 5:
            raise InputError(f"--train-severity: got {severity}, allowed: 1 to 5.")
        if self.train_corruption == "none" and severity != Config.train_severity:
            raise InputError(
                f"--train-severity: got {severity} without a corruption; name one with "
                "--train-corruption, or leave the severity out."
            )

    def _check_processes(self):
        number, which = self.num_processes, self.process_id
        if self.coordinator is None and (number, which) != (1, 0):
            raise InputError(
                f"--num-processes, --process-id: got {number}, {which}, allowed "
                "without --coordinator: 1, 0; say with it where the first process is."
            )
        if not 0 <= which < number:
            raise InputError(
                f"--process-id: got {which}, allowed: 0 to {number - 1}, one less than "
                "--num-processes."
            )
        if self.coordinator is not None and ":" not in self.coordinator:
            raise InputError(
                f"--coordinator: got {self.coordinator}, allowed: HOST:PORT."
            )

    def as_dict(self) -> dict[str, object]:
        """Field → JSON value; paths as text, tuples as lists."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in values.items():
            if isinstance(value, Path):
                values[name] = str(value)
            elif isinstance(value, tuple):
                values[name] = list(value)
        return values


_FRACTIONS = (
    "replacement_rate",
    "replacement_end",
    "kl_warmup",
    "fast_sign_probability",
)
_POSITIVE = (
    "width",
    "epochs",
    "batch_size",
    "accumulate",
    "inner_steps",
    "grow_batches",
    "removal_lambda",
    "spike_std",
    "prior_std",
    "sigma_init",
    "hess_init",
    "learning_rate",
    "sigma_learning_rate",
    "samples",
    "members",
    "fast_prior_scale",
    "fast_sigma_init",
    "fast_rate_scale",
    "decay_factor",
)
_NOT_NEGATIVE = (
    "train_size",
    "seed",
    "kl_scale",
    "mean_init",
    "clip_radius",
    "weight_decay",
    "test_every",
    "members_at_once",
    "devices",
)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
