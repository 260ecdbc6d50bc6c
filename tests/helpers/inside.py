"""Compiles the tests' own Cython modules into ``tests/helpers/bin``, once per change."""

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
MODULES = ("inside", "signals", "stepper")


def load(name: str = "inside") -> Any:
    """The module. Raises CalledProcessError with the compilers' own words on stderr."""
    BIN.mkdir(exist_ok=True)
    source = HERE / f"{name}.pyx"
    target = BIN / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [source, *(ROOT / "fastpath").glob("*.pxd"), *(ROOT / "fastpath").glob("*.h")]
    with (BIN / f".lock-{name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime for path in sources)
        if not target.exists() or target.stat().st_mtime < newest:
            _compile(source, target)
    spec = importlib.util.spec_from_file_location(name, target)
    if spec is None or spec.loader is None:
        raise ImportError(target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(source: Path, target: Path) -> None:
    c_file = BIN / f"{source.stem}.c"
    fresh = target.with_name(f".{target.name}")
    cython = [sys.executable, "-m", "cython", "-I", str(ROOT), "-o", str(c_file), str(source)]
    subprocess.run(cython, check=True)
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'fastpath'}"]
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wno-unused-function"]
    subprocess.run(["gcc", *flags, *includes, str(c_file), "-o", str(fresh)], check=True)
    fresh.replace(target)


if __name__ == "__main__":
    for module_name in MODULES:
        load(module_name)
