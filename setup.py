"""The extension modules. Everything else about the project is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

CHECKED = os.environ.get("SITEWARDEN_CHECKED") == "1"

MODULES = [
    "columns",
    "decode",
    "engine",
    "image",
    "interlock",
    "journal",
    "link",
    "mailbox",
    "modbus",
    "outputs",
    "program",
]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"fastpath.{name}",
                [f"fastpath/{name}.pyx"],
                depends=["fastpath/types.pxd", "fastpath/atomics.h"],
                extra_compile_args=["-O2", "-Wall", "-Wno-unused-function"],
            )
            for name in MODULES
            if os.path.exists(f"fastpath/{name}.pyx")
        ],
        compiler_directives={"language_level": 3},
        nthreads=2,
    )
)
