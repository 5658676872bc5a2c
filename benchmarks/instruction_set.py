"""Which vector instructions the sides of a comparison use.

`SSVI_JAX_ISA=avx2` before a command holds our kernels to it, and here PyTorch too; XLA
and ONNX Runtime cannot be told.
"""

import os
from pathlib import Path

_VARIABLE = "SSVI_JAX_ISA"


def hold_torch() -> None:
    """Before PyTorch is imported: it takes the instruction set that ours is held to."""
    if os.environ.get(_VARIABLE) == "avx2":
        os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def about() -> dict[str, object]:
    """This processor's vector instructions, from Linux, and what ours is held to."""
    text = Path("/proc/cpuinfo").read_text()
    words = next((line.split() for line in text.splitlines() if "flags" in line), [])
    flags = sorted(w for w in words if w.startswith(("avx", "fma", "f16c", "amx")))
    held = os.environ.get(_VARIABLE) or "the best"
    return {"processor_flags": flags, "our_instruction_set": held}
