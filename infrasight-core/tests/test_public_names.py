"""The public API of the core: the names that plugins import."""

import subprocess
import sys

import infrasight_core


def test_dir_lists_exactly_the_public_names() -> None:
    """Every listed name can be imported, and nothing else is listed."""
    assert dir(infrasight_core) == sorted(infrasight_core.__all__)
    for name in infrasight_core.__all__:
        assert getattr(infrasight_core, name) is not None


def test_import_of_the_core_alone_imports_neither_numpy_nor_pyarrow() -> None:
    """Commands such as `--help` start fast, because public names are imported on first use."""
    code = "import sys, infrasight_core; print({'numpy', 'pyarrow'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
