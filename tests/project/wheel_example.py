"""README's first example, and whether the compiled kernels are there.

python tests/project/wheel_example.py
python tests/project/wheel_example.py --without-kernels
"""

import os
import re
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def main() -> None:
    """Runs the example in an empty folder, where the checkout is not imported."""
    example = re.findall(
        r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )[0]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(compile(example, "README.md", "exec"), {"__name__": "example"})
        os.chdir(README.parent)

    from ssvi_jax.ops import custom_calls

    print(f"{custom_calls.__file__}: {custom_calls.instruction_sets()}")
    if "--without-kernels" not in sys.argv:
        assert custom_calls.available(), custom_calls.why_not()


if __name__ == "__main__":
    main()
