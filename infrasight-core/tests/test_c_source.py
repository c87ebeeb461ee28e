"""The C of a program before and after the compiler: includes, kernel fields, warnings."""

from pathlib import Path

import pytest
from infrasight_core.errors import KernelError
from infrasight_core.kernel.c_source import (
    KernelField,
    compiler_warnings,
    inline_headers,
    kernel_fields,
)

MACROS = """
#define FIELD(type, object, struct_member) read(type, (char *)(object) + OFFSET_##struct_member)
#define OPTIONAL_FIELDS(...) _Static_assert(1, #__VA_ARGS__)
"""


def fields(code: str) -> list[KernelField]:
    """The kernel fields of a text in the file `probe.bpf.c`, behind the core's macros."""
    return kernel_fields(f'# 1 "core.bpf.h"\n{MACROS}\n# 1 "probe.bpf.c"\n{code}')


def names(code: str) -> list[str]:
    """Their names."""
    return [field.name for field in fields(code)]


def test_a_field_is_found_where_it_is_used() -> None:
    """An argument of FIELD and an offset that is written out, each with its first line."""
    code = """int pid = FIELD(u32, task, task_struct__pid);
char *path = file + OFFSET_file__f_path;
int again = FIELD(u32, other, task_struct__pid);
"""
    assert fields(code) == [
        KernelField("task_struct.pid", "probe.bpf.c:1"),
        KernelField("file.f_path", "probe.bpf.c:2"),
    ]


def test_fields_of_nested_and_broken_calls_are_found() -> None:
    """FIELD in an argument of FIELD, over several lines, with commas in other arguments."""
    code = """x = FIELD(u32,
          FIELD(char *, pick(a, b), file__f_inode),
          inode__i_mode);"""
    assert sorted(names(code)) == ["file.f_inode", "inode.i_mode"]


def test_members_of_members_and_leading_underscores_are_kept_apart() -> None:
    """`__` separates the parts of a name; a further one belongs to the member's own name."""
    assert names("a = OFFSET_dentry__d_name__len + OFFSET_kernfs_node____parent;") == [
        "dentry.d_name.len",
        "kernfs_node.__parent",
    ]


def test_a_field_name_becomes_the_macro_of_its_use() -> None:
    """The define of a field is the very word that the C uses."""
    for word in ("OFFSET_dentry__d_name__len", "OFFSET_kernfs_node____parent"):
        (field,) = fields(f"a = {word};")
        assert field.define == word


def test_comments_and_strings_name_no_fields() -> None:
    """What is commented out or quoted is no use, and does not shift the lines."""
    code = """/* FIELD(u32, a, no__comment);
 * OFFSET_no__comment */
puts("FIELD(u32, a, no__string)"); // OFFSET_no__line_comment
x = FIELD(u32, a, list_head__next);"""
    assert fields(code) == [KernelField("list_head.next", "probe.bpf.c:4")]


def test_a_macro_of_the_probe_takes_fields_too() -> None:
    """A macro that passes its parameter on, also through another one, takes a field's name."""
    code = """#define READ(object, member) FIELD(u64, object, member)
#define READ_TASK(member) \\
  READ(task, member)
x = READ(a, file__f_flags) + READ_TASK(task_struct__mm);"""
    assert sorted(names(code)) == ["file.f_flags", "task_struct.mm"]


def test_offsets_that_the_text_defines_are_no_fields() -> None:
    """An offset computed from others stands for these."""
    code = """#define OFFSET_mount__root (OFFSET_mount__mnt + OFFSET_vfsmount__mnt_root)
x = FIELD(u64, mount, mount__root);"""
    assert sorted(names(code)) == ["mount.mnt", "vfsmount.mnt_root"]


def test_optional_fields_are_marked() -> None:
    """A field that OPTIONAL_FIELDS declares is optional; the others are not."""
    code = """OPTIONAL_FIELDS(io_open__dfd, io_open__how);
x = FIELD(int, command, io_open__dfd) + OFFSET_file__f_path;"""
    assert {field.name: field.optional for field in fields(code)} == {
        "io_open.dfd": True,
        "io_open.how": True,
        "file.f_path": False,
    }


def test_an_argument_that_names_no_field_is_an_error() -> None:
    """A member without its struct: the error names the line, the macro and the word."""
    with pytest.raises(KernelError, match=r"probe\.bpf\.c:2: FIELD: 'pid' names no kernel field"):
        fields("int x;\nx = FIELD(u32, task, pid);")


def test_inlined_lines_keep_their_file_and_number(tmp_path: Path) -> None:
    """A use in a header, and one behind its include, are found at their own places."""
    source = tmp_path / "probe.bpf.c"
    source.write_text('int before;\n#include "own.bpf.h"\nx = OFFSET_file__f_path;\n')
    header = tmp_path / "own.bpf.h"
    header.write_text("\ny = OFFSET_path__mnt;\n")
    text = inline_headers(source, {"own.bpf.h": header})
    assert kernel_fields(text) == [
        KernelField("path.mnt", "own.bpf.h:2"),
        KernelField("file.f_path", "probe.bpf.c:3"),
    ]


def test_an_unknown_header_is_named_with_its_line(tmp_path: Path) -> None:
    """A header that is neither the core's nor the program's."""
    source = tmp_path / "probe.bpf.c"
    source.write_text('\n#include "strange.bpf.h"\n')
    with pytest.raises(KernelError, match=r"probe\.bpf\.c:2: strange\.bpf\.h"):
        inline_headers(source, {})


def test_warnings_are_those_about_the_probes_c() -> None:
    """Each once, without the column; none about BCC's own headers, no errors, no notes."""
    output = """probe.bpf.c:3:7: warning: unused variable 'x' [-Wunused-variable]
  int x;
      ^
/virtual/include/bcc/helpers.h:9:1: warning: something [-Wother]
own.bpf.h:1:1: note: expanded from macro 'SET'
own.bpf.h:2:2: error: no
probe.bpf.c:3:7: warning: unused variable 'x' [-Wunused-variable]
2 warnings generated.
"""
    assert compiler_warnings(output) == (
        "probe.bpf.c:3: warning: unused variable 'x' [-Wunused-variable]",
    )
