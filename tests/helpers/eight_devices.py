"""The environment of a script for which a CPU counts as eight devices."""

import os
import sys

ENVIRONMENT = {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
    "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
}
