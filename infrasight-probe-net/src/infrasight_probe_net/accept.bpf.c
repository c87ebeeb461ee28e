/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * accept(2) and accept4(2), each recorded at its exit: by then the new connection's socket stands in the descriptor table.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                                            \
  TEXT(exe, 4096, 64)                                                                                                          \
  TEXT(unix_path, 128, 16)                                                                                                     \
  TEXT(unix_client_path, 128, 16)                                                                                              \
  CHARS(local_address, 16)                                                                                                     \
  CHARS(remote_address, 16)                                                                                                    \
  FIXED(u32, local_port)                                                                                                       \
  FIXED(u32, remote_port)                                                                                                      \
  FIXED(u32, family)                                                                                                           \
  FIXED(u32, socket_type)                                                                                                      \
  FIXED(u32, protocol)                                                                                                         \
  FIXED(u32, flags)                                                                                                            \
  FIXED(s32, listen_fd)                                                                                                        \
  FIXED(s32, fd)
/* The last of a request of io_uring that was told to say nothing of its success. */
#define FLAGS(FLAG) FLAG(socket_missing) FLAG(remote_address_missing) FLAG(return_code_missing)
#define FILTER_PATH unix_path

struct entry {
  u64 time;
  char *file; /* the kernel's, of listen_fd */
  u32 flags;
  int listen_fd;
};

#include "infrasight.bpf.h"
#include "socket.bpf.h"

static inline int accepting(int fd, u32 flags) {
  struct entry entry = {.file = file_of(fd), .listen_fd = fd, .flags = flags};
  return enter(&entry);
}

int enter_accept(struct sys_enter *call) {
  return accepting(call->args[0], 0);
}

int enter_accept4(struct sys_enter *call) {
  return accepting(call->args[0], call->args[3]);
}

int enter_socketcall_accept(struct sys_enter *call) {
  u32 given[1] = {};
  return socketcall_arguments(call, given, 1) ? accepting(given[0], 0) : 0;
}

int enter_socketcall_accept4(struct sys_enter *call) {
  u32 given[4] = {};
  return socketcall_arguments(call, given, 4) ? accepting(given[0], given[3]) : 0;
}

/* Both ends of the new connection; of a call that failed, the local one as the listening socket has it. */
static inline void ends(struct block *b, char *listening, char *accepted, bool failed) {
  char *sk = accepted ?: listening;
  struct tuple tuple = {};
  if (!sk) b->_quality |= FLAG(socket_missing);
  if (!failed && !accepted) b->_quality |= FLAG(remote_address_missing) | TEXT_MISSING(unix_client_path);
  read_tuple(&tuple, sk);
  SET_TUPLE(b, &tuple);
  SET_SOCKET(b, sk);
  if (GET(b, family) != AF_UNIX) return;
  SET_UNIX_PATH(b, unix_path, sk);
  SET_UNIX_PATH(b, unix_client_path, FIELD(char *, accepted, unix_sock__peer));
}

int exit_accept(struct sys_exit *call) {
  int result = call->ret;
  u32 tid = bpf_get_current_pid_tgid();
  OPAQUE(result); /* read once: the context may not be reached through a pointer that was computed */
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(tid);
  if (b) {
    char *file = entry ? file_of(entry->listen_fd) : NULL;
    char *listening = file && file == entry->file ? sock_of(file) : NULL;
    common(b, entry, result);
    SET(b, flags, entry ? entry->flags : 0);
    SET(b, listen_fd, entry ? entry->listen_fd : -1);
    SET(b, fd, result >= 0 ? result : -1);
    ends(b, listening, result >= 0 ? sock_of(file_of(result)) : NULL, result < 0);
    commit(b);
  }
  forget(tid);
  return 0;
}

#include "uring_accept.bpf.h"
