/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * mkdir(2) and mkdirat(2): one event per call, recorded at its exit.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(exe, 4096, 64)                                                                              \
  TEXT(path, 4096, 64)                                                                             \
  FIXED(s32, dirfd)                                                                                \
  FIXED(u32, mode)
#define FILTER_PATH path

/* The arguments of a call, stored from its entry to its exit. */
struct entry {
  u64 time;
  const char *path;
  int dirfd;
  u32 mode;
};

#include "infrasight.bpf.h"

int enter_mkdir(struct sys_enter *call) {
  struct entry entry = {
      .path = pointer(call->args[0]), .dirfd = CURRENT_DIRECTORY, .mode = call->args[1]};
  return enter(&entry);
}

int enter_mkdirat(struct sys_enter *call) {
  struct entry entry = {
      .path = pointer(call->args[1]), .dirfd = call->args[0], .mode = call->args[2]};
  return enter(&entry);
}

int exit_mkdir(struct sys_exit *call) {
  u32 thread = bpf_get_current_pid_tgid();
  struct block *b = begin(); /* NULL if the event is filtered or the block is full */
  if (b) SET_EXE(b); /* first: the verifier checks what follows once for each of its results */
  struct entry *entry = entry_of(thread); /* NULL if the call began before the probe was attached */
  if (b) {
    common(b, entry, call->ret);
    SET(b, dirfd, entry ? entry->dirfd : CURRENT_DIRECTORY);
    SET(b, mode, entry ? entry->mode : 0);
    SET_USER_STRING(b, path, entry ? entry->path : NULL);
    commit(b);
  }
  forget(thread);
  return 0;
}
