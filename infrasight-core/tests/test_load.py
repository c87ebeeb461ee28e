"""The loader: loaded programs have the layout of the header, and every error names its cause."""

from pathlib import Path

import infrasight_probe_sample.plugin as sample
import pytest
from attrs import evolve
from infrasight_core import BpfProgram, ConfigError, KernelFunction, SystemCall, Tracepoint
from infrasight_core.enrichers import containers
from infrasight_core.errors import PluginError
from infrasight_core.kernel import loader
from infrasight_core.kernel.attach_points import calls_of
from infrasight_core.kernel.bcc_client import compile_with_bcc, explain
from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.loader import (
    LoadedProbe,
    LoadSettings,
    load,
    running_kernel,
    unattachable_functions,
)

PROGRAM: BpfProgram = sample.load_bpf(running_kernel(), {})
CALL_HEADER = loader.HEADERS_FOLDER / "call.bpf.h"
COMMON = "common(b, entry, call->ret);"  # a line of the sample's C

_FULLY_ORDERED = {0x01, 0xF1}  # BPF_ADD | BPF_FETCH, BPF_CMPXCHG


def changed(tmp_path: Path, old: str, new: str) -> tuple[BpfProgram, int]:
    """The sample with other C, in the file `changed.bpf.c`, and the line of the change."""
    text = PROGRAM.source.read_text(encoding="utf-8")
    assert old in text
    source = tmp_path / "changed.bpf.c"
    source.write_text(text.replace(old, new))
    return evolve(PROGRAM, source=source), text[: text.index(old)].count("\n") + 1


def loaded_and_closed(program: BpfProgram) -> LoadedProbe:
    """What loading the program gives; the program does not stay attached."""
    loaded = load("sample", program, running_kernel(), LoadSettings())
    loaded.close()
    return loaded


@pytest.mark.parametrize("python", ["/etc/passwd", "/nowhere/python3", "/etc"])
def test_loader_reports_a_python_that_cannot_run(python: str) -> None:
    """A Python that is missing or not executable: an error that names it and the setting."""
    with pytest.raises(PluginError, match=f"{python}.*loader_python"):
        load("sample", PROGRAM, running_kernel(), LoadSettings(python=Path(python)))


def test_loader_names_the_package_that_has_bcc(tmp_path: Path) -> None:
    """A Python without bcc: the error says what to install."""
    without_bcc = tmp_path / "python3"
    without_bcc.write_text('#!/bin/sh\nexec /usr/bin/python3 -S "$@"\n')
    without_bcc.chmod(0o755)
    with pytest.raises(PluginError, match="apt-get install python3-bpfcc"):
        load("sample", PROGRAM, running_kernel(), LoadSettings(python=without_bcc))


def test_head_and_entries_move_by_fully_ordered_atomics() -> None:
    """`commit` compiles to BPF_ADD | BPF_FETCH and `forget` to BPF_CMPXCHG, both fully ordered."""
    request = loader._request(PROGRAM, (), running_kernel(), LoadSettings())
    compiled = compile_with_bcc(request, LoadSettings().python)
    names = {loader.program_of(name) for call in calls_of(PROGRAM) for name in call.functions}
    codes = [bytes.fromhex(each.code) for each in compiled.functions if each.name in names]
    instructions = [code[i : i + 8] for code in codes for i in range(0, len(code), 8)]
    atomics = [i for i in instructions if i[0] == 0xDB]  # BPF_STX | BPF_ATOMIC | BPF_DW
    assert {int.from_bytes(atomic[4:], "little") for atomic in atomics} == _FULLY_ORDERED


def test_blocks_are_made_smaller_until_they_fit() -> None:
    """A memory budget that the wanted slots would exceed halves them until they fit."""
    loaded = load("sample", PROGRAM, running_kernel(), LoadSettings(memory=1 << 20))
    layout = loaded.blocks.layout
    loaded.close()
    assert layout.slots < PROGRAM.slots
    assert layout.size * running_kernel().cpus <= 1 << 20


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (evolve(PROGRAM, attach=(SystemCall("openat", exit="no_such"),)), "int no_such"),
        (evolve(PROGRAM, attach=(Tracepoint("no_such", "sched:sched_switch"),)), "int no_such"),
        (
            evolve(PROGRAM, attach=(Tracepoint("enter_openat", "sched:no_such_event"),)),
            "no_such_event",
        ),
        (evolve(PROGRAM, slots=1000), "power of two"),
        (evolve(PROGRAM, slots=1 << 24), "slots = 16777216 is more than 1048576"),
        (evolve(PROGRAM, source=CALL_HEADER), "call.bpf.h does not include infrasight.bpf.h"),
    ],
)
def test_load_error_names_its_cause(program: BpfProgram, message: str) -> None:
    """A wrong function, event, size or source: a PluginError of load_bpf that names it."""
    with pytest.raises(PluginError, match=message) as caught:
        load("sample", program, running_kernel(), LoadSettings())
    assert (caught.value.plugin, caught.value.hook) == ("sample", "load_bpf")


def test_compiler_error_names_the_file_and_line(tmp_path: Path) -> None:
    """A mistake in the C is reported at its line in the probe's own file."""
    program, line = changed(tmp_path, COMMON, "common(b, nothing, call->ret);")
    message = rf"changed\.bpf\.c:{line}:.*undeclared identifier 'nothing'"
    with pytest.raises(PluginError, match=message):
        load("sample", program, running_kernel(), LoadSettings())


def test_verifier_error_has_the_end_of_its_log(tmp_path: Path) -> None:
    """C that compiles, but reads before its block: program and the verifier's reason are named."""
    program, _ = changed(tmp_path, COMMON, f"{COMMON} SET(b, flags, ((volatile u32 *)b)[-2]);")
    message = "Failed to load BPF program exit_openat__run: Permission denied; .*outside of the"
    with pytest.raises(PluginError, match=message):
        load("sample", program, running_kernel(), LoadSettings())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("task_struct__no_such", "task_struct.no_such: .*'task_struct' has no member 'no_such'"),
        ("no_struct__field", "no_struct.field: this kernel has no struct 'no_struct'"),
        ("task_struct__pid__x", "task_struct.pid.x: this kernel's member 'pid' has no member 'x'"),
    ],
)
def test_misspelt_kernel_field_is_named_with_its_line(
    tmp_path: Path, field: str, message: str
) -> None:
    """The error names the struct, the member, and the line of the C that uses it."""
    use = f"SET(b, flags, FIELD(u32, bpf_get_current_task(), {field}));"
    program, line = changed(tmp_path, COMMON, f"{COMMON} {use}")
    with pytest.raises(PluginError, match=rf"changed\.bpf\.c:{line}: kernel field {message}"):
        load("sample", program, running_kernel(), LoadSettings())


def test_optional_kernel_field_may_be_absent(tmp_path: Path) -> None:
    """The C can ask whether the kernel has an optional field; the offset of one it lacks is -1."""
    check = """
OPTIONAL_FIELDS(task_struct__no_such, task_struct__pid);
_Static_assert(!HAS_FIELD(task_struct__no_such) && OFFSET_task_struct__no_such == -1, "absent");
_Static_assert(HAS_FIELD(task_struct__pid), "present");
"""
    include = '#include "infrasight.bpf.h"'
    program, _ = changed(tmp_path, include, include + check)
    assert loaded_and_closed(program).warnings == ()


def test_compiler_warnings_are_logged_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A probe whose C has a dubious line is loaded, and the log shows the line."""
    program, line = changed(tmp_path, COMMON, f"int unused; {COMMON}")
    (warning,) = loaded_and_closed(program).warnings
    assert warning == f"changed.bpf.c:{line}: warning: unused variable 'unused' [-Wunused-variable]"
    assert f"changed.bpf.c:{line}: warning" in capsys.readouterr().out


def test_own_programs_compile_without_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    """The sample, the tracker of containers, the dispatcher; ProbeContract looks at the probes."""
    tracker = containers.load_bpf(running_kernel(), {})
    assert loaded_and_closed(PROGRAM).warnings == ()
    assert loaded_and_closed(tracker).warnings == ()
    Dispatcher(running_kernel(), LoadSettings())._load().close()
    assert "the compiler warns" not in capsys.readouterr().out


ABSENT_FUNCTION = KernelFunction(
    "never_attached", "no_such_function_of_any_kernel", optional=True, lack="what the row lacks"
)


def test_optional_function_that_the_kernel_lacks_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its C is not compiled, the rest records; log and loaded probe say why and what is lacking."""
    include = '#include "infrasight.bpf.h"'
    mistake = "\n#ifdef HAVE_never_attached\n#error compiled\n#endif\n"
    program, _ = changed(tmp_path, include, include + mistake)
    loaded = loaded_and_closed(evolve(program, attach=(ABSENT_FUNCTION, *PROGRAM.attach)))
    assert loaded.functions == ()
    assert loaded.unattached == {"never_attached": "the kernel has no such function"}
    logged = capsys.readouterr().out
    assert "cannot attach to kernel function" in logged
    assert ABSENT_FUNCTION.kernel_function in logged
    assert ABSENT_FUNCTION.lack in logged
    assert "the kernel has no such function" in logged


def test_required_function_that_the_kernel_lacks_is_named() -> None:
    """The probe is not loaded; a PluginError of load_bpf names the function."""
    required = evolve(ABSENT_FUNCTION, optional=False)
    program = evolve(PROGRAM, attach=(required, *PROGRAM.attach))
    message = "never_attached.*no_such_function_of_any_kernel: the kernel has no such function"
    with pytest.raises(PluginError, match=message):
        load("sample", program, running_kernel(), LoadSettings())


def test_unattachable_functions_are_those_that_a_probe_cannot_use(tmp_path: Path) -> None:
    """An empty program attaches to a kernel function if and only if a probe's program does."""
    point = KernelFunction("at_open", "security_file_open", optional=True)
    include = '#include "infrasight.bpf.h"'
    function = "\nint at_open(u64 *arguments) {\n  return 0;\n}\n"
    program, _ = changed(tmp_path, include, include + function)
    loaded = loaded_and_closed(evolve(program, attach=(point, *PROGRAM.attach)))
    reasons = unattachable_functions(["security_file_open"])
    assert (loaded.functions == ("at_open",)) == (not reasons)
    assert ("at_open" in loaded.unattached) == bool(reasons)


def test_optional_function_whose_program_fails_is_left_out() -> None:
    """A program that does not load, or is not in the C: the rest of the probe loads."""
    point = KernelFunction("never_written", "security_file_open", optional=True)
    loaded = loaded_and_closed(evolve(PROGRAM, attach=(point, *PROGRAM.attach)))
    assert loaded.functions == ()
    assert loaded.unattached.keys() == {"never_written"}


def test_offsets_are_those_of_the_kernel() -> None:
    """Members, members of anonymous members and of members, in bytes; unknown ones are missing."""
    offsets = kernel_offsets(
        [
            "list_head.next",
            "list_head.prev",
            "path.mnt",
            "path.dentry",
            "dentry.d_name.name",
            "dentry.d_name",
            "dentry.no_such",
        ]
    )
    found = offsets.found
    assert (found["list_head.next"], found["list_head.prev"]) == (0, 8)
    assert found["path.dentry"] == found["path.mnt"] + 8
    assert found["dentry.d_name.name"] == found["dentry.d_name"] + 8
    assert offsets.missing == {
        "dentry.no_such": "this kernel's struct 'dentry' has no member 'no_such'"
    }


def test_unknown_option_is_rejected() -> None:
    """The sample probe has the option `slots` only."""
    with pytest.raises(ConfigError, match="slotz"):
        sample.load_bpf(running_kernel(), {"slotz": 1})


def test_missing_tracefs_is_explained_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without tracefs, bcc fails in a way that the kernel does not permit; tracefs is the cause."""
    monkeypatch.setattr("infrasight_core.kernel.attach_points.TRACEFS", (str(tmp_path),))
    assert "tracefs is not mounted" in explain("OSError: Operation not permitted")
    (tmp_path / "events").mkdir()
    assert "seccomp" in explain("OSError: Operation not permitted")
