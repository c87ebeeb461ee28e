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
#define FLAGS(FLAG) FLAG(socket_missing) FLAG(remote_address_missing)
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

/* Both ends of the new connection; of a call that failed, the local one as the listening socket has it. */
static inline void ends(struct block *b, struct entry *entry, int fd) {
  char *file = entry ? file_of(entry->listen_fd) : NULL, *sk = NULL, *accepted = fd < 0 ? NULL : sock_of(file_of(fd));
  struct tuple tuple = {};
  if (accepted)
    sk = accepted;
  else if (file && file == entry->file)
    sk = sock_of(file);
  if (!sk) b->_quality |= FLAG(socket_missing);
  if (fd >= 0 && !accepted) b->_quality |= FLAG(remote_address_missing) | TEXT_MISSING(unix_client_path);
  read_tuple(&tuple, sk);
  SET_TUPLE(b, &tuple);
  SET_SOCKET(b, sk);
  if (GET(b, family) != AF_UNIX) return;
  SET_UNIX_PATH(b, unix_path, sk);
  SET_UNIX_PATH(b, unix_client_path, FIELD(char *, accepted, unix_sock__peer));
}

int exit_accept(struct sys_exit *call) {
  u32 tid = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(tid);
  if (b) {
    common(b, entry, call->ret);
    SET(b, flags, entry ? entry->flags : 0);
    SET(b, listen_fd, entry ? entry->listen_fd : -1);
    SET(b, fd, call->ret >= 0 ? call->ret : -1);
    ends(b, entry, call->ret);
    commit(b);
  }
  forget(tid);
  return 0;
}
