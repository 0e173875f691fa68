"""Builds the Lambda function's package: a folder, and the same as a zip.

    python deploy/lambda/build.py [--architecture x86_64] [--out build/lambda]

It is for the runtime of the Python that runs this. Dependencies come through pip, in the versions
of constraints.txt, for the platform that Lambda runs, whatever this one is; what the function never
loads is left out; the sizes are held against Lambda's limits. Everything is compiled: a function
can't keep bytecode beside its files, and would compile pandas anew at each cold start.

The same inputs make the same bytes: files are sorted, times and permissions are fixed, and nothing
of this machine is in them.

https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import platform
import py_compile
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

UNZIPPED = 250 * 1024 * 1024
"""Bytes of a function and its layers at most, unzipped."""

DIRECT = 50 * 1024 * 1024
"""Bytes of a zip that can be uploaded as it is; a larger one goes through S3, as `sam` does it."""

OURS = (
    "__init__.py",
    "_xnys.py",
    "actions",
    "collection",
    "lake",
    "lambda_handler.py",
    "market_calendar.py",
    "pipeline",
    "py.typed",
    "rate_limits",
    "securities",
    "settings.py",
    "sources",
    "storage",
)
"""What the function needs of this package: nothing that imports Dagster."""

NOT_OURS = ("__pycache__", "*.so", "*.c", "*.pyi")
"""What lies beside it and stays here. The compiled decoder of bars is for this machine: with it the
same inputs would not make the same bytes, and of a session it saves a hundredth of a second."""

RUNTIME = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Lambda's runtime, and the Python that the wheels and the bytecode are for."""

RUNTIMES = ("3.12", "3.13")
"""Those that this project holds on, and Lambda creates functions for (3.11: until July 2026)."""

TASK = "/var/task"
"""Where Lambda unzips a function: what tracebacks are to say."""

PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""The runtimes from python3.12 on stand on Amazon Linux 2023, whose glibc is 2.34."""

UNUSED = (
    "bin/*",  # scripts, with the building Python's path in their first line
    "**/__pycache__",
    "**/tests",
    "**/*.a",
    "**/*.h",
    "**/*.pyi",
    "**/*.pxd",
    "**/*.pyx",
    "**/*.dist-info/RECORD",
    "**/*.dist-info/direct_url.json",
    "numpy/distutils",
    "numpy/f2py",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/**/*.pxi",
    "pyarrow/*flight*",  # Arrow's RPC
    "pyarrow/*_s3*",  # Arrow's own S3; the lake is written by obstore
    # Copies of libarrow_python.so.NNNN, for who links by another name.
    "pyarrow/libarrow_python.so",
    "pyarrow/libarrow_python.so.*.*.*",
)
"""What is in the wheels and never loaded by the function: a third of them."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a package weighs, in bytes.

    Args:
        unzipped: All of its files.
        zipped: The zip.
    """

    unzipped: int
    zipped: int

    def __str__(self) -> str:
        share = self.unzipped / UNZIPPED
        way = "as it is" if self.zipped <= DIRECT else "through S3, as sam does it"
        return (
            f"{_mebibytes(self.unzipped)} unzipped, {share:.0%} of Lambda's "
            f"{_mebibytes(UNZIPPED)}; {_mebibytes(self.zipped)} zipped, to be uploaded {way}"
        )


class TooLargeError(RuntimeError):
    """Lambda would refuse the package; says by how much, and what is largest."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Build it, and tell what it weighs."""
    given = _arguments(arguments)
    if RUNTIME not in RUNTIMES:
        sys.exit(
            f"Lambda runs the function by Python {' or '.join(RUNTIMES)}, and this is {RUNTIME}. "
            f"Build it with another: make lambda LAMBDA_PYTHON=/path/to/python{RUNTIMES[0]}"
        )
    folder = given.out / "package"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    install(folder, given.architecture)
    left_out = prune(folder)
    copy_ours(folder)
    bytecode(folder)
    tried = try_import(folder) if _runs_here(given.architecture) else None
    sizes = pack(folder, given.out / "package.zip")
    print(f"left out: {_mebibytes(left_out)} that the function never loads")
    print(f"{_shown(given.out / 'package.zip')}: {sizes}")
    digest = hashlib.sha256((given.out / "package.zip").read_bytes()).hexdigest()
    print(f"sha256: {digest}")
    seconds = "not tried: this machine is another than Lambda's"
    print("bars are decoded in Python: a function has no compiled decoder")
    print(f"import: {seconds if tried is None else f'{tried:.2f} s here, with alpaca-py'}")
    print(f"Runtime=python{RUNTIME}")


def install(folder: Path, architecture: str) -> None:
    """Install the dependencies for Lambda's platform.

    Args:
        folder: Where to.
        architecture: `x86_64` or `aarch64`.

    Raises:
        CalledProcessError: pip failed; it has said why.
    """
    platforms = [f"--platform={name}_{architecture}" for name in PLATFORMS]
    command = [
        *(sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"),
        *("--no-input", "--no-compile", "--only-binary=:all:", "--no-warn-conflicts"),
        *(f"--python-version={RUNTIME}", "--implementation=cp", *platforms),
        *(f"--target={folder}", f"--constraint={ROOT / 'constraints.txt'}"),
        f"--requirement={HERE / 'requirements.txt'}",
    ]
    subprocess.run(command, check=True)


def prune(folder: Path, unused: Iterable[str] = UNUSED) -> int:
    """Remove what the function never loads.

    Args:
        folder: The installed dependencies.
        unused: Patterns of files and folders in it.

    Returns:
        The bytes that are gone.
    """
    before = _weight(folder)
    for pattern in unused:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return before - _weight(folder)


def copy_ours(folder: Path) -> None:
    """Copy what the function needs of this package.

    Args:
        folder: Where to.
    """
    for name in OURS:
        source, target = ROOT / "datalake_assets" / name, folder / "datalake_assets" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_OURS))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def bytecode(folder: Path) -> None:
    """Compile everything, for Lambda to take as it is.

    The bytecode is not held against the time of its source, which a zip does not keep.

    Args:
        folder: Dependencies and our own.
    """
    compileall.compile_dir(
        folder,
        quiet=2,  # a file of another Python, in a package's own examples, is no matter of ours
        stripdir=str(folder),
        prependdir=TASK,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def try_import(folder: Path) -> float:
    """Import the function, and what it imports later, from the folder alone.

    Args:
        folder: The whole package.

    Returns:
        Seconds that it took, in a new process.

    Raises:
        CalledProcessError: Something is missing; the process has said what.
    """
    program = (
        "import sys, time; began = time.perf_counter(); sys.path.insert(0, sys.argv[1])\n"
        "import datalake_assets.lambda_handler, datalake_assets.rate_limits.postgres\n"
        "import dagster_pipes\n"
        "import alpaca.data.historical, alpaca.trading.client\n"
        "print(time.perf_counter() - began)"
    )
    # -S: without this environment's own packages.
    command = [sys.executable, "-I", "-S", "-B", "-c", program, str(folder)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def pack(folder: Path, to: Path, limit: int = UNZIPPED) -> Sizes:
    """Zip a folder, the same bytes for the same files.

    Args:
        folder: What to zip.
        to: The zip.
        limit: Bytes that it may weigh unzipped.

    Raises:
        TooLargeError: It weighs more.
    """
    unzipped = _weight(folder)
    if unzipped > limit:
        parts = sorted(((_weight(path), path.name) for path in folder.iterdir()), reverse=True)
        largest = ", ".join(f"{name} {_mebibytes(size)}" for size, name in parts[:5])
        raise TooLargeError(
            f"the package weighs {_mebibytes(unzipped)} unzipped, and Lambda takes no more than "
            f"{_mebibytes(limit)}. The largest parts: {largest}. Leave more out (UNUSED)"
        )
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as package:
        for path in _files(folder):
            # The earliest time that a zip knows, and readable by the user that Lambda runs it as.
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            package.writestr(entry, path.read_bytes())
    return Sizes(unzipped, to.stat().st_size)


def _runs_here(architecture: str) -> bool:
    return (platform.system(), platform.machine()) == ("Linux", architecture)


def _files(folder: Path) -> list[Path]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _weight(path: Path) -> int:
    return sum(file.stat().st_size for file in (_files(path) if path.is_dir() else [path]))


def _mebibytes(size: int) -> str:
    return f"{size / 1024 / 1024:,.1f} MiB"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", default="x86_64", choices=["x86_64", "aarch64"])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "lambda", metavar="FOLDER")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
