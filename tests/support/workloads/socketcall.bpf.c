/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A probe for tests: connect(2) through socketcall(2).
 */
#define COLUMNS(FIXED, CHARS, TEXT) TEXT(path, 4096, 64) FIXED(u32, flags)

struct entry {
  u64 time;
  u32 socket, size;
};

#include "infrasight.bpf.h"

int enter_socketcall(struct sys_enter *call) {
  u32 arguments[3] = {};
  struct entry entry = {};
  if (socketcall_arguments(call, arguments, 3)) {
    entry.socket = arguments[0];
    entry.size = arguments[2];
  }
  return enter(&entry);
}

int exit_socketcall(struct sys_exit *call) {
  u32 thread = bpf_get_current_pid_tgid();
  struct entry *entry = entry_of(thread);
  struct block *b = begin();
  if (b) {
    common(b, entry, call->ret);
    SET(b, flags, entry ? entry->socket << 16 | entry->size : 0);
    commit(b);
  }
  forget(thread);
  return 0;
}
