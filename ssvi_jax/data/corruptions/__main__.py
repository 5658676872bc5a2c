"""The command line: corruptions of a file of images, in the official layout."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from ssvi_jax.core.command import program, run
from ssvi_jax.core.errors import InputError, check_choice, check_seed
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA, NAMES, SEVERITIES, layout


@dataclasses.dataclass(frozen=True)
class Command:
    """Corrupts images as in CIFAR-10-C and writes the files of its official layout.

    Each corruption becomes OUT/<name>.npy: all images at severity 1, then all at
    severity 2, up to 5.
    """

    images: Annotated[Path, tyro.conf.Positional]
    """NumPy file of uint8 images [n, height, width, 3 or 1], pixels 0 to 255."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the results; made where there is none."""
    names: tuple[str, ...] = BENCHMARK
    """Corruptions to write."""
    extra: bool = False
    """Also write speckle_noise, gaussian_blur, spatter and saturate."""
    seed: int = 0
    """Seed of the random numbers."""
    labels: Path | None = None
    """NumPy file of the labels [n]; OUT/labels.npy gets them five times over."""
    overwrite: bool = False
    """Replace results that are there."""

    def __post_init__(self):
        for name in self.names:
            check_choice("--names", name, NAMES)
        check_seed("--seed", self.seed)

    def chosen(self) -> list[str]:
        """The corruptions to write, each once, in the benchmark's order."""
        wanted = {*self.names, *(EXTRA if self.extra else ())}
        return [name for name in NAMES if name in wanted]


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    prog = program("python -m ssvi_jax.data.corruptions")
    command = tyro.cli(Command, args=list(argv), prog=prog)
    images = layout.read_images(command.images)
    labels = None
    if command.labels is not None:
        labels = layout.read_labels(command.labels, len(images))
    targets = {name: command.out / f"{name}.npy" for name in command.chosen()}
    labels_target = command.out / "labels.npy"
    results = [*targets.values(), *([labels_target] if labels is not None else [])]
    _check_targets(results, command)
    command.out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        total = len(targets) * len(SEVERITIES) * len(images)
        task = progress.add_task("", total=total)
        for name, target in targets.items():
            progress.update(task, description=name)
            layout.write_corruption(
                target,
                images,
                name,
                seed=command.seed,
                advance=lambda count: progress.advance(task, count),
            )
    if labels is not None:
        layout.write_labels(labels_target, labels)
    count = f"{len(SEVERITIES)} x {len(images)} images"
    print(f"{command.out}: {len(targets)} corruptions of {count}, seed {command.seed}")
    return 0


def _check_targets(results: list[Path], command: Command) -> None:
    """Raises `InputError` where a result would replace a file that must stay."""
    inputs = [path.resolve() for path in (command.images, command.labels) if path]
    for path in results:
        if path.resolve() in inputs:
            raise InputError(f"out: {path} is an input; choose another folder.")
        if path.exists() and not command.overwrite:
            raise InputError(
                f"out: {path} is there already; choose another folder, or replace it "
                "with --overwrite."
            )


if __name__ == "__main__":
    from ssvi_jax.core.command import program, run

    run(main)
