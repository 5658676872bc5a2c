"""The environment of a script for which a CPU counts as eight devices."""

import os
import sys

ENVIRONMENT = {
    # Quick to compile for.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
}
