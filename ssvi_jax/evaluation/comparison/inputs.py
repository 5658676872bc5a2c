"""The images that a comparison evaluates on; opened once for all runs."""

from pathlib import Path

from ssvi_jax.data import Dataset
from ssvi_jax.data.corrupted import open_cells
from ssvi_jax.data.ood import load_ood
from ssvi_jax.evaluation.comparison.options import Comparison
from ssvi_jax.evaluation.shift.inputs import Inputs


def open_inputs(data: Dataset, options: Comparison, data_dir: Path | None) -> Inputs:
    """Clean, corrupted and out-of-distribution images of a comparison.

    Args:
      data: the data set.
      options: which corruptions and out-of-distribution sets, and how many images.
      data_dir: folder of sets prepared by TFDS.

    Raises:
      InputError: a set is missing, damaged, or does not fit the data set.
    """
    cells = open_cells(
        data,
        corruptions_dir=options.corruptions_dir,
        data_dir=data_dir,
        extra=False,
        limit=options.images,
        seed=0,
        notify=print,
    )
    names = () if options.ood == ("none",) else options.ood or ("auto",)
    ood = load_ood(
        data, names, data_dir=data_dir, limit=options.images, seed=0, notify=print
    )
    return Inputs(data, cells, ood, options.images)
