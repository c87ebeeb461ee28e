"""`tools/cluster_tools.py` and pytest's part of it: built once, beside other tests, and a test that cannot run says why."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "cluster_tools.py"
TESTS = "def test_of_a_cluster(cluster_tools): assert (cluster_tools / 'etcd').exists()\ndef test_of_something_else(): pass\n"


@pytest.fixture
def environment(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Makes an environment with an empty cache and a Go that writes down its calls, and builds two programs of a line each or
    ends with a status."""

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


def builds(tmp_path: Path) -> int:
    """How often Go was asked to build."""
    return sum(line.startswith("build ") for line in (tmp_path / "calls").read_text().splitlines())


def run_pytest(tmp_path: Path, environment: dict[str, str]) -> str:
    """What pytest says of a session with two tests, the first of which needs the tools."""
    (tmp_path / "test_sample.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-ra",
        "-p",
        "infrasight_testbed.cluster_plugin",
        "-c",
        os.devnull,
        ".",
    ]
    path = {"PYTHONPATH": str(ROOT / "tests" / "support")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_at_once_build_once(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """Of two that start together one builds, both print the folder, and there is nothing else in the cache but the lock."""
    pipes = [
        subprocess.Popen(
            [sys.executable, SCRIPT],
            env=environment(0),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [(process.communicate()[0].strip(), process.returncode) for process in pipes]
    folder = said[0][0]
    assert said == [(folder, 0)] * 2
    assert builds(tmp_path) == 1
    assert sorted(f.name for f in Path(folder).iterdir()) == ["etcd", "kubectl", "kwok-stages.yaml"]
    assert sorted(f.name for f in Path(folder).parent.iterdir()) == sorted(
        [Path(folder).name, "kubernetes.lock"]
    )


def test_a_build_that_fails_leaves_nothing_and_says_why(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """The compiler's words and a line that names the command, status 3, and an empty cache: the next one builds."""
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment(7), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "no room on the disk" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "`go build -trimpath` failed (status 7, see above)"
    )
    assert [f.name for f in (tmp_path / "cache" / "infrasight-tools").iterdir()] == [
        "kubernetes.lock"
    ]
    assert (
        subprocess.run(
            [sys.executable, SCRIPT], env=environment(0), capture_output=True, check=False
        ).returncode
        == 0
    )


def test_other_tests_run_while_the_tools_are_built(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """A session without tools builds while the other test runs, and says what it waits for; the next has nothing to do."""
    said = run_pytest(tmp_path, environment(0))
    assert said.index("test_of_something_else PASSED") < said.index("test_of_a_cluster")
    assert "2 passed" in said
    assert "building etcd" in said
    again = run_pytest(tmp_path, environment(0))
    assert again.index("test_of_a_cluster PASSED") < again.index("test_of_something_else")
    assert builds(tmp_path) == 1


def test_what_cannot_be_had_is_a_skip_with_its_reason(
    environment: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    """Where the build fails the tests of clusters are skipped, and the summary says why; the others pass."""
    said = run_pytest(tmp_path, environment(7))
    assert "1 passed, 1 skipped" in said
    assert (
        "`go build -trimpath` failed (status 7, see above)"
        in said.partition("short test summary")[2]
    )
