"""Loading: what is refused is explained, and what is loaded is what the header promises."""

import json
import subprocess
from pathlib import Path

import infrasight_probe_sample.plugin as sample
import pytest
from attrs import evolve
from infrasight_core import BpfProgram, ConfigError, KernelFunction, Tracepoint
from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel import loader
from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.kernel.loader import (
    LoadSettings,
    _explained,
    load,
    refused_functions,
    running_kernel,
)

PROGRAM: BpfProgram = sample.load_bpf(running_kernel(), {})

# Compiles a request and prints every function's bytecode, 8 bytes an instruction, in hexadecimal.
_DUMP = """
import json, os, sys
request = json.load(sys.stdin)
os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
from bcc import BPF
bpf = BPF(text=request["source"].encode(), cflags=[*request["cflags"], "-DSLOTS=64"])
print(json.dumps([bpf.dump_func(name.encode()).hex() for name, _ in request["attach"]]))
"""


@pytest.mark.parametrize("python", ["/etc/passwd", "/nowhere/python3", "/etc"])
def test_loader_reports_a_python_that_cannot_run(python: str) -> None:
    """A Python that is missing or not executable: an error that names it and the setting."""
    with pytest.raises(KernelError, match=f"{python}.*loader_python"):
        refused_functions(["security_path_chmod"], Path(python))


def test_the_head_moves_by_a_fully_ordered_atomic() -> None:
    """`commit` compiles to BPF_ADD | BPF_FETCH on a double word, `forget` to BPF_CMPXCHG: every architecture's JIT makes both
    fully ordered."""
    request = loader._request(PROGRAM, running_kernel(), LoadSettings())
    run = subprocess.run(
        ["/usr/bin/python3", "-c", _DUMP],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    codes = [bytes.fromhex(code) for code in json.loads(run.stdout.splitlines()[-1])]
    instructions = [code[i : i + 8] for code in codes for i in range(0, len(code), 8)]
    atomic = [i for i in instructions if i[0] == 0xDB]  # BPF_STX | BPF_ATOMIC | BPF_DW
    assert atomic
    assert {int.from_bytes(i[4:], "little") for i in atomic} == {
        0x01,
        0xF1,
    }  # BPF_ADD | BPF_FETCH, BPF_CMPXCHG


def test_blocks_are_made_smaller_until_they_fit() -> None:
    """A memory budget that the wanted slots would exceed halves them, and the layout says how many there are."""
    loaded = load("sample", PROGRAM, running_kernel(), LoadSettings(memory=1 << 20))
    layout = loaded.blocks.layout
    loaded.close()
    assert layout.slots < PROGRAM.slots
    assert layout.size * running_kernel().cpus <= 1 << 20


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (evolve(PROGRAM, attach=(Tracepoint("no_such", "syscalls:sys_enter_openat"),)), "no_such"),
        (
            evolve(PROGRAM, attach=(Tracepoint("enter_openat", "syscalls:no_such_event"),)),
            "no_such_event",
        ),
        (evolve(PROGRAM, kernel_fields=("task_struct.no_such",)), "no member 'no_such'"),
        (evolve(PROGRAM, kernel_fields=("no_struct.field",)), "no struct 'no_struct'"),
        (evolve(PROGRAM, slots=1000), "power of two"),
        (evolve(PROGRAM, source=Path(__file__)), "does not include infrasight.bpf.h"),
    ],
)
def test_what_cannot_be_loaded_is_named(program: BpfProgram, said: str) -> None:
    """A wrong function, event, field, size or source: a PluginError of load_bpf that names it."""
    with pytest.raises(PluginError, match=said) as caught:
        load("sample", program, running_kernel(), LoadSettings())
    assert (caught.value.plugin, caught.value.hook) == ("sample", "load_bpf")


def test_a_mistake_in_the_c_is_shown_with_its_file_and_line(tmp_path: Path) -> None:
    """A compiler error names the probe's own file and the line there, not the header's."""
    source = tmp_path / "wrong.bpf.c"
    text = PROGRAM.source.read_text(encoding="utf-8").replace(
        "common(b, entry, call->ret);", "common(b, nothing, call->ret);"
    )
    source.write_text(text)
    line = next(
        number for number, content in enumerate(text.splitlines(), 1) if "nothing" in content
    )
    with pytest.raises(
        PluginError, match=rf"wrong\.bpf\.c:{line}:.*undeclared identifier 'nothing'"
    ):
        load("sample", evolve(PROGRAM, source=source), running_kernel(), LoadSettings())


def test_a_python_without_bcc_says_what_to_install(tmp_path: Path) -> None:
    """A loader Python that is not there, or has no bcc: the remedy is in the message."""
    with pytest.raises(PluginError, match="loader_python"):
        load("sample", PROGRAM, running_kernel(), LoadSettings(python=tmp_path / "python"))
    without = tmp_path / "python3"
    without.write_text('#!/bin/sh\nexec /usr/bin/python3 -S "$@"\n')
    without.chmod(0o755)
    with pytest.raises(PluginError, match="apt-get install python3-bpfcc"):
        load("sample", PROGRAM, running_kernel(), LoadSettings(python=without))


NOWHERE = KernelFunction(
    "hung_nowhere", "no_such_function_of_any_kernel", optional=True, lack="what the row lacks"
)


def test_a_function_that_the_kernel_does_not_have_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An optional one: its C is not compiled, the rest records, and the log and the loaded probe say why and what it costs."""
    source = tmp_path / "with_function.bpf.c"
    mistake = "\n#ifdef HAVE_hung_nowhere\n#error compiled\n#endif\n"
    source.write_text(PROGRAM.source.read_text(encoding="utf-8") + mistake)
    program = evolve(PROGRAM, source=source, attach=(NOWHERE, *PROGRAM.attach))
    loaded = load("sample", program, running_kernel(), LoadSettings())
    loaded.close()
    assert (loaded.functions, dict(loaded.refused)) == (
        (),
        {"hung_nowhere": "the kernel has no such function"},
    )
    logged = capsys.readouterr().out
    for said in (NOWHERE.kernel_function, NOWHERE.lack, "the kernel has no such function"):
        assert said in logged


def test_a_function_that_is_needed_is_named() -> None:
    """One that is not optional, where the kernel has none of that name: a PluginError of load_bpf that names it."""
    program = evolve(PROGRAM, attach=(evolve(NOWHERE, optional=False), *PROGRAM.attach))
    with pytest.raises(
        PluginError,
        match=r"hung_nowhere.*no_such_function_of_any_kernel: the kernel has no such function",
    ):
        load("sample", program, running_kernel(), LoadSettings())


def test_what_is_tried_is_what_can_be_loaded(tmp_path: Path) -> None:
    """A program that does nothing hangs on a function of the kernel, or not: the same is so of a probe's, which is optional."""
    point = KernelFunction("at_open", "security_file_open", optional=True)
    source = (
        PROGRAM.source.read_text(encoding="utf-8")
        + "\nint at_open(u64 *arguments) {\n  return 0;\n}\n"
    )
    path = tmp_path / "at_open.bpf.c"
    path.write_text(source)
    loaded = load(
        "sample",
        evolve(PROGRAM, source=path, attach=(point, *PROGRAM.attach)),
        running_kernel(),
        LoadSettings(),
    )
    loaded.close()
    refused = refused_functions(["security_file_open"], LoadSettings().python)
    assert (loaded.functions == ("at_open",), "at_open" in loaded.refused) == (
        not refused,
        bool(refused),
    )


def test_a_function_whose_program_is_refused_is_left_out() -> None:
    """A program that the verifier refuses, or that is not there: the probe goes without it, and says why."""
    point = KernelFunction("never_written", "security_file_open", optional=True)
    loaded = load(
        "sample", evolve(PROGRAM, attach=(point, *PROGRAM.attach)), running_kernel(), LoadSettings()
    )
    loaded.close()
    assert loaded.functions == ()
    assert loaded.refused.keys() == {"never_written"}


def test_offsets_are_the_kernels_own() -> None:
    """Members, members of anonymous members and of members: in bytes, within their struct."""
    offsets = kernel_offsets(
        [
            "list_head.next",
            "list_head.prev",
            "path.mnt",
            "path.dentry",
            "dentry.d_name.name",
            "dentry.d_name",
        ]
    )
    assert (offsets["list_head.next"], offsets["list_head.prev"]) == (0, 8)
    assert offsets["path.dentry"] == offsets["path.mnt"] + 8
    assert offsets["dentry.d_name.name"] == offsets["dentry.d_name"] + 8


def test_options_that_are_not_known_are_refused() -> None:
    """The sample probe knows `slots` only."""
    with pytest.raises(ConfigError, match="slotz"):
        sample.load_bpf(running_kernel(), {"slotz": 1})


def test_a_container_without_tracefs_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where tracefs is not mounted, that is said, though bcc then tries a way that the kernel does not permit."""
    monkeypatch.setattr("infrasight_core.kernel.loader.TRACEFS", (str(tmp_path),))
    assert "tracefs is not mounted" in _explained("OSError: Operation not permitted")
    (tmp_path / "events").mkdir()
    assert "seccomp" in _explained("OSError: Operation not permitted")
