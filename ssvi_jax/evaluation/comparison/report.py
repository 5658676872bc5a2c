"""What a comparison leaves: its numbers, the table in three forms, and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssvi_jax.evaluation.comparison import figures, summary, table
from ssvi_jax.io.run_log import RunLog


def write(comparison: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes comparison.json, table.csv, table.md, pareto.png and shift.png.

    Args:
      comparison: what `summary.build` returned.
      folder: the comparison's folder.

    Returns:
      Paths of what was written.

    Raises:
      InputError: the folder cannot be written.
    """
    log = RunLog(folder)
    log.write_json(summary.FILE, comparison)
    texts = {"table.csv": table.as_csv, "table.md": table.markdown}
    for name, form in texts.items():
        (folder / name).write_text(form(comparison), encoding="utf-8")
    paths = [folder / name for name in (summary.FILE, *texts)]
    return [*paths, *figures.make_figures(comparison, folder)]
