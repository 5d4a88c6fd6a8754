"""A process that imports only tensorflow and may not use XLA, as a stock TensorFlow Serving on CPUs."""

import json
import subprocess
import sys

# TensorFlow Serving calls this function when it starts, unless it is given `--xla_cpu_compilation_enabled`.
STOCK_SERVER = """
import ctypes, json, os, sys
import tensorflow as tf
library = ctypes.CDLL(os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2"))
getattr(library, "_ZN10tensorflow21DisableXlaCompilationEv")()
"""


def ask_stock_server(program: str, *arguments):
    """What a program prints as its last line, in JSON."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
