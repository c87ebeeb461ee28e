/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A probe for tests: a call with a socket, a pointer and a size, such as connect(2).
 */
#define COLUMNS(FIXED, CHARS, TEXT) TEXT(path, 4096, 64) FIXED(u32, flags)

struct entry {
  u64 time;
  u32 socket, size;
};

#include "infrasight.bpf.h"

int enter_socket_call(struct sys_enter *call) {
  struct entry entry = {.socket = call->args[0], .size = call->args[2]};
  return enter(&entry);
}

int exit_socket_call(struct sys_exit *call) {
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
