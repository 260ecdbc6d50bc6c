"""Compiles ``inside.pyx`` into ``tests/helpers/bin``, once per change, and loads it."""

import fcntl
import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BIN = HERE / "bin"
SOURCE = HERE / "inside.pyx"


def load() -> Any:
    """The module. Raises CalledProcessError with the compilers' own words on stderr."""
    BIN.mkdir(exist_ok=True)
    target = BIN / f"inside{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [SOURCE, *(ROOT / "fastpath").glob("*.pxd"), *(ROOT / "fastpath").glob("*.h")]
    with (BIN / ".lock-inside").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime for path in sources)
        if not target.exists() or target.stat().st_mtime < newest:
            _compile(target)
    spec = importlib.util.spec_from_file_location("inside", target)
    if spec is None or spec.loader is None:
        raise ImportError(target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(target: Path) -> None:
    c_file = BIN / "inside.c"
    fresh = target.with_name(f".{target.name}")
    cython = [sys.executable, "-m", "cython", "-I", str(ROOT), "-o", str(c_file), str(SOURCE)]
    subprocess.run(cython, check=True)
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'fastpath'}"]
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wno-unused-function"]
    subprocess.run(["gcc", *flags, *includes, str(c_file), "-o", str(fresh)], check=True)
    fresh.replace(target)
