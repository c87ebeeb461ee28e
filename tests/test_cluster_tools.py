"""`tools/cluster_tools.py` and its pytest plugin: one build, beside other tests, or a skip."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "cluster_tools.py"
TESTS = """
def test_of_a_cluster(cluster_tools):
    assert (cluster_tools / "etcd").exists()

def test_of_something_else():
    pass
"""


@pytest.fixture
def environment(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Returns an environment with an empty cache and a fake Go, which logs its calls.

    The fake Go builds two trivial programs, or fails with the given status.
    """

    def make(status: int) -> dict[str, str]:
        go = tmp_path / "bin" / "go"
        go.parent.mkdir(exist_ok=True)
        go.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {tmp_path}/calls\n'
            'case "$1" in\n'
            "  env) echo go1.99 ;;\n"
            f"  list) echo {tmp_path} ;;\n"
            "  build)\n"
            f"    [ {status} = 0 ] || {{ echo 'no room on the disk'; exit {status}; }}\n"
            "    sleep 0.5\n"
            '    while [ "$1" != -o ]; do shift; done\n'
            '    mkdir -p "$2"\n'
            '    printf "#!/bin/sh\\necho stages\\n" | tee "$2/kubectl" > "$2/server"\n'
            '    chmod +x "$2/kubectl" ;;\n'
            "esac\n"
        )
        go.chmod(0o755)
        return {
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PATH": f"{go.parent}:{os.environ['PATH']}",
        }

    return make


def count_builds(tmp_path: Path) -> int:
    """How often Go was called to build."""
    return sum(line.startswith("build ") for line in (tmp_path / "calls").read_text().splitlines())


def run_pytest(tmp_path: Path, environment: dict[str, str]) -> str:
    """Runs pytest on two tests, the first of which needs the tools; returns its output."""
    (tmp_path / "test_sample.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-ra"]
    command += ["-p", "infrasight_testbed.cluster_plugin", "-c", os.devnull, "."]
    path = {"PYTHONPATH": str(ROOT / "tests" / "support")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_concurrent_runs_build_once(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """Of two concurrent runs one builds, both print the folder, and no temporary file is left."""
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT],
            env=environment(0),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [(process.communicate()[0].strip(), process.returncode) for process in processes]
    folder = Path(results[0][0])
    assert results == [(str(folder), 0)] * 2
    assert count_builds(tmp_path) == 1
    assert {file.name for file in folder.iterdir()} == {"etcd", "kubectl", "kwok-stages.yaml"}
    assert {file.name for file in folder.parent.iterdir()} == {folder.name, "kubernetes.lock"}


def test_failed_build_leaves_nothing_and_names_the_cause(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """A failed build prints the compiler's output, exits with status 3, and can be repeated."""
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment(7), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "no room on the disk" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "`go build -trimpath` failed (status 7, see above)"
    )
    cache = tmp_path / "cache" / "infrasight-tools"
    assert [file.name for file in cache.iterdir()] == ["kubernetes.lock"]
    repeated = subprocess.run(
        [sys.executable, SCRIPT], env=environment(0), capture_output=True, check=False
    )
    assert repeated.returncode == 0


def test_other_tests_run_during_the_build(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """A session without tools builds them while other tests run; the next one does not build."""
    output = run_pytest(tmp_path, environment(0))
    assert output.index("test_of_something_else PASSED") < output.index("test_of_a_cluster")
    assert "2 passed" in output
    assert "building etcd" in output
    again = run_pytest(tmp_path, environment(0))
    assert again.index("test_of_a_cluster PASSED") < again.index("test_of_something_else")
    assert count_builds(tmp_path) == 1


def test_missing_tools_skip_cluster_tests_with_the_reason(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """After a failed build cluster tests are skipped with the reason; other tests pass."""
    output = run_pytest(tmp_path, environment(7))
    assert "1 passed, 1 skipped" in output
    summary = output.partition("short test summary")[2]
    assert "`go build -trimpath` failed (status 7, see above)" in summary
