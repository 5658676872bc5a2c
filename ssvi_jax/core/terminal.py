"""What is printed, on the terminal that there is."""

import re
import shutil
import textwrap

_INDENT = "    "


def width() -> int:
    """Columns of the terminal, or as $COLUMNS says; 80 in a file or a pipe."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def fitted(table: str) -> str:
    """A table whose lines are no longer than the terminal is wide.

    A line that is too long is broken between its columns, which two spaces or more
    separate; what follows is indented, so headings and rows break alike. Nothing is
    left out, and where the table fits it is as it was.

    Args:
      table: lines of text, rules of dashes among them.
    """
    columns = width()
    return "\n".join(
        line if len(line) <= columns else _broken(line, columns)
        for line in table.split("\n")
    )


def _broken(line: str, columns: int) -> str:
    if not line.strip("-"):
        return "-" * columns
    start = line[: len(line) - len(line.lstrip())][:8]
    lines = [""]
    for cell in re.split(r"\s{2,}", line.strip()):
        joined = f"{lines[-1]}  {cell}" if lines[-1].strip() else lines[-1] + cell
        if len(start + joined) <= columns:
            lines[-1] = joined
            continue
        room = max(columns - len(start + _INDENT), 8)
        first, *rest = textwrap.wrap(cell, room, break_on_hyphens=False)
        if lines == [""]:
            lines = [first]
        else:
            lines.append(_INDENT + first)
        lines += [_INDENT + each for each in rest]
    return "\n".join(start + each for each in lines)
