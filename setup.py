"""The one thing that pyproject.toml can't say yet: an extension that may be left out.

Without a compiler, or when it fails, pip installs the rest, and pages are decoded in Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "datalake_assets.sources._pages",
            ["datalake_assets/sources/_pages.c"],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
