/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * openat(2) with its arguments as given: a minimal probe.
 */
#define COLUMNS(FIXED, CHARS, TEXT) TEXT(path, 4096, 64) FIXED(u32, flags)
#define FILTER_PATH path

struct entry {
  u64 time;
  const char *path;
  u32 flags;
};

#include "infrasight.bpf.h"

int enter_openat(struct sys_enter *call) {
  struct entry entry = {.path = (void *)call->args[1], .flags = call->args[2]};
  return enter(&entry);
}

int exit_openat(struct sys_exit *call) {
  u32 thread = bpf_get_current_pid_tgid();
  struct entry *entry = entry_of(thread);
  struct block *b = begin();
  if (b) {
    common(b, entry, call->ret);
    SET(b, flags, entry ? entry->flags : 0);
    SET_USER_STRING(b, path, entry ? entry->path : NULL);
    commit(b);
  }
  forget(thread);
  return 0;
}
