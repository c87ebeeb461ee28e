"""The checks of `infrasight doctor`, each failure with its remedy."""

import stat
from pathlib import Path

import pytest
from infrasight_core.cli import doctor_checks

MOUNTS = "tracefs /sys/kernel/tracing tracefs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root in which everything is as it should be."""
    for path, text in {
        "proc/self/mounts": MOUNTS,
        "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
        "proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
        "proc/sys/kernel/perf_event_paranoid": "2\n",
        "proc/sys/kernel/yama/ptrace_scope": "1\n",
        "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
        "sys/kernel/tracing/events/sched/sched_process_exec/id": "1\n",
    }.items():
        put(tmp_path / path, text.encode())
    put(tmp_path / "sys/kernel/btf/vmlinux", b"\x9f\xeb\x01")
    return tmp_path


def put(path: Path, content: bytes) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_checks_pass_on_a_suitable_machine(root: Path) -> None:
    """No check has a remedy there."""
    found = [
        doctor_checks.btf(root),
        doctor_checks.tracefs(root),
        doctor_checks.bpffs(root),
        doctor_checks.capabilities(root),
        doctor_checks.lockdown(root),
    ]
    found += [
        doctor_checks.unprivileged(root),
        doctor_checks.perf_events(root),
        doctor_checks.ptrace_scope(root),
        doctor_checks.tracepoints(root, ["sched:sched_process_exec"]),
    ]
    found += [
        doctor_checks.kernel("5.15.0-1-amd64"),
        doctor_checks.kernel("6.18.44"),
        doctor_checks.architecture("x86_64"),
        doctor_checks.libbpf(),
    ]
    assert [(c.name, c.status, c.remedy) for c in found if c.status != "ok" or c.remedy] == []


@pytest.mark.parametrize(
    ("release", "status"),
    [("5.14.9", "fail"), ("4.18.0-553.el8", "fail"), ("5.15", "ok"), ("odd", "warn")],
)
def test_kernel_check_needs_5_15(release: str, status: str) -> None:
    """An older kernel fails, with the version that is needed."""
    check = doctor_checks.kernel(release)
    assert check.status == status
    assert ("5.15" in check.remedy) == (status != "ok")


def test_architecture_check_warns_of_untested_machines() -> None:
    """Only x86_64 is fine; arm64 is a warning, others fail."""
    assert [doctor_checks.architecture(m).status for m in ("x86_64", "aarch64", "riscv64")] == [
        "ok",
        "warn",
        "fail",
    ]


def test_btf_check_reports_absent_and_damaged_files(root: Path) -> None:
    """Without BTF another kernel is needed."""
    path = root / "sys/kernel/btf/vmlinux"
    path.write_bytes(b"ELF")
    assert (
        doctor_checks.btf(root).status,
        "CONFIG_DEBUG_INFO_BTF" in doctor_checks.btf(root).remedy,
    ) == ("fail", True)
    path.unlink()
    assert (
        doctor_checks.btf(root).status,
        "CONFIG_DEBUG_INFO_BTF" in doctor_checks.btf(root).remedy,
    ) == ("fail", True)
    path.mkdir()
    assert doctor_checks.btf(root).found.endswith("Is a directory")


def test_tracefs_check_finds_both_mount_points(root: Path) -> None:
    """Not mounted: the exact command, and nothing is mounted. The old mount point is fine."""
    mounts = root / "proc/self/mounts"
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert doctor_checks.tracefs(root) == doctor_checks.Check(
        "tracefs", "fail", "not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"
    )
    assert doctor_checks.tracepoints(root, ["a:b"]).status == "warn"
    mounts.write_text("tracefs /sys/kernel/debug/tracing tracefs rw 0 0\n")
    put(root / "sys/kernel/debug/tracing/events/a/b/id", b"1")
    assert doctor_checks.tracefs(root).found == str(root / "sys/kernel/debug/tracing")
    assert doctor_checks.tracepoints(root, ["a:b"]).status == "ok"


def test_tracepoints_check_names_absent_ones(root: Path) -> None:
    """Those that the kernel lacks are named."""
    check = doctor_checks.tracepoints(root, ["sched:sched_process_exec", "raw_syscalls:sys_enter"])
    assert (check.status, check.found) == ("fail", "not in this kernel: raw_syscalls:sys_enter")


def test_optional_tracepoints_check_warns_of_lost_operations() -> None:
    """Without any absent tracepoint all is well; an absent one is named with its probe."""
    ring = ("open", "io_uring:io_uring_cqe_overflow")
    found = [doctor_checks.optional_tracepoints(absent) for absent in ([], [ring])]
    assert [check.status for check in found] == ["ok", "warn"]
    assert "io_uring:io_uring_cqe_overflow (open)" in found[1].found
    assert "are not recorded" in found[1].remedy


def test_compat_check_reports_which_probes_record_32_bit_calls(root: Path) -> None:
    """The kernel has none, or these probes record them."""
    assert "CONFIG_IA32_EMULATION" in doctor_checks.compat(root, "x86_64", ["open"]).found
    put(root / "proc/sys/abi/vsyscall32", b"1\n")
    check = doctor_checks.compat(root, "x86_64", ["open", "chmod", "open"])
    assert (check.status, check.found) == ("ok", "recorded by chmod, open")


@pytest.mark.parametrize(
    ("setting", "words"),
    [(None, "on; "), ("0", "on; "), ("1", "for privileged processes"), ("2", "off")],
)
def test_io_uring_check_reports_which_probes_record_it(
    root: Path, setting: str | None, words: str
) -> None:
    """Who may use it, and which probes record its operations."""
    if setting is not None:
        put(root / "proc/sys/kernel/io_uring_disabled", f"{setting}\n".encode())
    check = doctor_checks.io_uring(root, ["open"])
    assert (check.status, words in check.found) == ("ok", True)
    assert ("by open and by no other probe" in check.found) == (setting != "2")


def test_bpffs_check_warns_with_the_command(root: Path) -> None:
    """Not mounted is no failure, but the remedy has the command."""
    (root / "proc/self/mounts").write_text("none /sys/fs/bpf tmpfs rw 0 0\n")
    check = doctor_checks.bpffs(root)
    assert (check.status, check.remedy) == (
        "warn",
        "needed only for pinning: mount -t bpf bpf /sys/fs/bpf",
    )


@pytest.mark.parametrize(
    ("effective", "status", "found"),
    [
        (1 << 21, "ok", "CAP_SYS_ADMIN"),
        (1 << 38 | 1 << 39, "ok", "CAP_BPF, CAP_PERFMON"),
        (1 << 39, "fail", "without CAP_PERFMON"),
        (1 << 38, "fail", "without CAP_BPF"),
        (0, "fail", "without CAP_BPF, CAP_PERFMON"),
    ],
)
def test_capabilities_check_names_absent_ones(
    root: Path, effective: int, status: str, found: str
) -> None:
    """The effective set is decoded, and what it lacks is named."""
    (root / "proc/self/status").write_text(
        f"CapPrm:\tffffffffffffffff\nCapEff:\t{effective:016x}\n"
    )
    check = doctor_checks.capabilities(root)
    assert (check.status, check.found) == (status, found)
    assert ("sudo" in check.remedy) == (status == "fail")


@pytest.mark.parametrize(
    ("paranoid", "effective", "status"),
    [
        ("2", 1 << 38 | 1 << 39, "ok"),
        ("3", 1 << 38 | 1 << 39, "fail"),
        ("4", 1 << 21, "warn"),
    ],
)
def test_perf_events_check_knows_what_debian_adds(
    root: Path, paranoid: str, effective: int, status: str
) -> None:
    """With 3 or more, CAP_PERFMON does not suffice; with CAP_SYS_ADMIN it is a warning."""
    put(root / "proc/sys/kernel/perf_event_paranoid", f"{paranoid}\n".encode())
    (root / "proc/self/status").write_text(f"CapEff:\t{effective:016x}\n")
    check = doctor_checks.perf_events(root)
    assert check.status == status
    assert ("sysctl kernel.perf_event_paranoid=2" in check.remedy) == (status != "ok")


def test_ptrace_scope_check_names_the_remedy(root: Path) -> None:
    """Without Yama, or with its scope 0, a user's processes can read the server's memory."""
    file = root / "proc/sys/kernel/yama/ptrace_scope"
    assert doctor_checks.ptrace_scope(root).remedy == ""
    file.write_text("0\n")
    assert "ptrace_scope=1" in doctor_checks.ptrace_scope(root).remedy
    file.unlink()
    assert "separate user" in doctor_checks.ptrace_scope(root).remedy


def test_lockdown_and_unprivileged_checks(root: Path) -> None:
    """Confidentiality fails, unprivileged BPF is a warning, and absent files are fine."""
    put(root / "sys/kernel/security/lockdown", b"none integrity [confidentiality]\n")
    put(root / "proc/sys/kernel/unprivileged_bpf_disabled", b"0\n")
    assert doctor_checks.lockdown(root).status == "fail"
    assert doctor_checks.unprivileged(root).remedy == "sysctl kernel.unprivileged_bpf_disabled=1"
    (root / "sys/kernel/security/lockdown").unlink()
    (root / "proc/sys/kernel/unprivileged_bpf_disabled").unlink()
    assert (doctor_checks.lockdown(root).status, doctor_checks.unprivileged(root).status) == (
        "ok",
        "ok",
    )


@pytest.mark.parametrize(
    ("script", "status", "expected"),
    [
        ("echo bcc version 0.26.0", "ok", "bcc 0.26.0"),
        ("echo another package is called bcc: /x/bcc.py >&2; exit 1", "fail", "/x/bcc.py"),
        (
            "echo \"ModuleNotFoundError: No module named 'bcc'\" >&2; exit 1",
            "fail",
            "No module named 'bcc'",
        ),
        ("exit 1", "fail", "exit status 1"),
        ("true", "fail", "is not a Python"),
        ("echo 0.26.0", "fail", "is not a Python"),
    ],
)
def test_bcc_check_accepts_only_a_python_with_bcc(
    tmp_path: Path, script: str, status: str, expected: str
) -> None:
    """Without bcc, with PyPI's unrelated package, or no Python: Debian's package is named."""
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    check = doctor_checks.bcc(python)
    assert check.status == status
    assert expected in check.found
    assert ("apt-get install python3-bpfcc" in check.remedy and "unrelated" in check.remedy) == (
        status == "fail"
    )


def test_bcc_check_reports_a_python_that_cannot_run(tmp_path: Path) -> None:
    """An absent file is reported as such."""
    assert "cannot run" in doctor_checks.bcc(tmp_path / "python3").found


def test_libbpf_check_names_the_package() -> None:
    """Without the library its package is named."""

    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    assert doctor_checks.libbpf(missing) == doctor_checks.Check(
        "libbpf", "fail", "libbpf.so.1: cannot open shared object file", "apt-get install libbpf1"
    )


def test_function_check_warns_with_the_consequence() -> None:
    """A function that no program can attach to: why, and how events differ without it."""
    assert doctor_checks.function("security_path_chmod", "", "no mode") == doctor_checks.Check(
        "kernel function", "ok", "security_path_chmod"
    )
    assert doctor_checks.function(
        "security_path_chmod", "not permitted", "a row has no mode"
    ) == doctor_checks.Check(
        "kernel function",
        "warn",
        "security_path_chmod: not permitted",
        "without it a row has no mode",
    )


def test_container_runtimes_check_reports_sockets() -> None:
    """None is fine; those that answer are named; one that does not is a warning with a remedy."""
    podman = ("/run/podman/podman.sock", "podman 4.3.1", "")
    silent = ("/run/docker.sock", "", "/run/docker.sock: timed out")
    found = [
        doctor_checks.container_runtimes(sockets) for sockets in ([], [podman], [podman, silent])
    ]
    assert [check.status for check in found] == ["ok", "ok", "warn"]
    assert found[1].found == "podman 4.3.1 at /run/podman/podman.sock"
    assert "/run/docker.sock: timed out" in found[2].found
    assert "options.containers.sockets" in found[2].remedy
