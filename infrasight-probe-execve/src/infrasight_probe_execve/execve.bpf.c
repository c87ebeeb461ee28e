/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * execve(2) and execveat(2). A call that succeeds is recorded when the new image is in place
 * (sched_process_exec), from the image's own memory, which no thread of the caller can reach any
 * more. A call that fails is recorded at its exit.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(exe, 4096, 64)                                                                              \
  TEXT(filename, 4096, 64)                                                                         \
  TEXT(argv, 32768, 256)                                                                           \
  TEXT(cwd, 4096, 64)                                                                              \
  CHARS(parent_comm, 16)                                                                           \
  FIXED(u32, argv_length)                                                                          \
  FIXED(s32, dirfd)                                                                                \
  FIXED(u32, at_flags)
#define FILTER_PATH exe

struct entry {
  u64 time;
  const char *filename;
  const char *argv; /* an array of pointers, of 4 bytes each in a 32-bit call */
  int dirfd;
  u32 at_flags, is_compat;
};

#include "infrasight.bpf.h"

#define FAILED_ARGUMENTS 1024 /* the most arguments of a failed call that are read */
#define PF_KTHREAD 0x00200000

struct sched_process_exec {
  u64 common;
  u32 filename;
  int pid, old_pid;
};

int enter_execve(struct sys_enter *call) {
  struct entry entry = {.filename = pointer(call->args[0]),
                        .argv = pointer(call->args[1]),
                        .dirfd = CURRENT_DIRECTORY,
                        .is_compat = in_compat_call()};
  return enter(&entry);
}

int enter_execveat(struct sys_enter *call) {
  struct entry entry = {.dirfd = call->args[0],
                        .filename = pointer(call->args[1]),
                        .argv = pointer(call->args[2]),
                        .at_flags = call->args[4],
                        .is_compat = in_compat_call()};
  return enter(&entry);
}

static inline void set_paths(struct block *b) {
  char *task = (char *)bpf_get_current_task();
  char *mm = FIELD(char *, task, task_struct__mm);
  SET_PATH(b, exe, FIELD(char *, mm, mm_struct__exe_file) + OFFSET_file__f_path);
  SET_PATH(b, cwd, FIELD(char *, task, task_struct__fs) + OFFSET_fs_struct__pwd);
}

/* Fills the columns that do not depend on whether the call succeeded. */
static inline void set_call(struct block *b, struct entry *entry, int result) {
  char *parent = FIELD(char *, bpf_get_current_task(), task_struct__real_parent);
  common(b, entry, result);
  /* The kernel starts a program, such as a core dump handler, as the child of a kernel thread. No
   * call has an entry then, so that none is missing. */
  if (!entry && FIELD(u32, parent, task_struct__flags) & PF_KTHREAD) {
    SET(b, via, VIA_KERNEL);
    b->_quality &= ~ENTRY_MISSING;
  }
  /* By now the task has the ABI of the new program; the entry has that of the call. */
  if (entry) SET(b, via, entry->is_compat ? VIA_COMPAT : VIA_SYSCALL);
  bpf_probe_read_kernel(CHARS_AT(b, parent_comm, 16), 16, parent + OFFSET_task_struct__comm);
  SET(b, dirfd, entry ? entry->dirfd : CURRENT_DIRECTORY);
  SET(b, at_flags, entry ? entry->at_flags : 0);
}

int succeeded(struct sched_process_exec *exec) {
  u32 thread = exec->old_pid; /* a thread that executes takes over the id of the group's leader */
  struct block *b = begin();
  if (b) {
    char *mm = FIELD(char *, bpf_get_current_task(), task_struct__mm);
    u64 start = FIELD(u64, mm, mm_struct__arg_start);
    u64 size = FIELD(u64, mm, mm_struct__arg_end) - start;
    set_paths(b); /* see SET_PATH */
    set_call(b, entry_of(thread), 0);
    SET_KERNEL_STRING(b, filename, DATA_LOC(exec, filename));
    SET(b, argv_length, size);
    SET_USER_BYTES(b, argv, (void *)start, size);
    commit(b);
  }
  forget(thread);
  return 0;
}

/* Fills argv and argv_length with the arguments of a failed call, from the caller's memory: one
 * after the other, each with its NUL. The kernel takes NULL for an empty list.
 *
 * The verifier goes through all rounds for each state that leads into the loop, and from each
 * branch of a round through the next round once more. Numbers that differ between states therefore
 * lie in the block, and a round has no branch but out of the loop. */
static inline void set_user_argv(struct block *b, struct entry *entry) {
  u64 width = number_of(b, entry && entry->is_compat ? 4 : 8) & 15;
  u64 pointers = entry ? (u64)entry->argv : 0;
  u64 *total = &walk_of(b)->at;
  u64 problem = TEXT_CUT(argv);
  SET(b, argv_length, 0);
  if (!entry) b->_quality |= TEXT_MISSING(argv);
  if (!pointers) return;
  *total = 0;
  for (int i = 0; i < FAILED_ARGUMENTS; i++) {
    u64 argument[2] = {};
    char *at = TEXT_AT(b, argv);
    problem = TEXT_MISSING(argv);
    if (bpf_probe_read_user(argument, width, (char *)pointers)) break;
    problem = 0;
    if (!argument[0]) break;
    problem = TEXT_MISSING(argv);
    *at = 0;
    long length = bpf_probe_read_user_str(at, argv_max, (char *)argument[0]);
    if (length < 0) break;
    length += (u64)(length - 1) >> 63; /* kernels before 6.13 return 0 for an empty string */
    *total += length;
    u64 fits = (*total - argv_max) >> 63;
    OPAQUE(fits);
    TEXT_LENGTH(b, argv) += fits * (*total - TEXT_LENGTH(b, argv));
    pointers += width;
    problem = TEXT_CUT(argv);
  }
  if (*total >= argv_max) problem |= TEXT_CUT(argv);
  b->_quality |= problem | TEXT_USER_MEMORY(argv);
  SET(b, argv_length, *total);
}

int failed(struct sys_exit *call) {
  u32 thread = bpf_get_current_pid_tgid();
  struct block *b = call->ret < 0 ? begin() : NULL;
  if (b) set_paths(b); /* see SET_PATH */
  struct entry *entry = entry_of(thread);
  if (b) {
    set_call(b, entry, call->ret);
    SET_USER_STRING(b, filename, entry ? entry->filename : NULL);
    set_user_argv(b, entry);
    commit(b);
  }
  forget(thread);
  return 0;
}
