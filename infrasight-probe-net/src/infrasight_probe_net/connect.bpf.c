/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * connect(2), recorded at its exit, from the socket that the kernel has; and how an attempt of TCP ended that outlived its call.
 * An attempt is kept by its socket from the state SYN_SENT on, which the kernel sets within the call, until both have come: its
 * end, which the kernel tells by the socket's next state, maybe on another CPU and in no task's name, and the call's exit.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                                            \
  TEXT(exe, 4096, 64)                                                                                                          \
  TEXT(unix_path, 128, 16)                                                                                                     \
  TEXT(unix_client_path, 128, 16)                                                                                              \
  CHARS(local_address, 16)                                                                                                     \
  CHARS(remote_address, 16)                                                                                                    \
  FIXED(u64, connection_id)                                                                                                    \
  FIXED(u32, local_port)                                                                                                       \
  FIXED(u32, remote_port)                                                                                                      \
  FIXED(u32, family)                                                                                                           \
  FIXED(u32, socket_type)                                                                                                      \
  FIXED(u32, protocol)                                                                                                         \
  FIXED(s32, fd)                                                                                                               \
  FIXED(u8, stage)                                                                                                             \
  FIXED(u8, in_progress)
#define FLAGS(FLAG)                                                                                                            \
  FLAG(socket_missing)                                                                                                         \
  FLAG(remote_address_missing)                                                                                                 \
  FLAG(remote_address_user_memory) FLAG(outcome_missing) FLAG(return_code_missing) FLAG(duration_ns_missing)
#define FILTER_PATH unix_path

struct entry {
  u64 time, id;    /* of an attempt that an earlier call began */
  char *file, *sk; /* the kernel's, of fd */
  const char *address;
  s64 length;
  int fd;
};

#include "infrasight.bpf.h"
#include "socket.bpf.h"
#include "caller.bpf.h"
#include "attempt.bpf.h"

#define EINTR 4
#define EISCONN 106
#define EALREADY 114
#define EINPROGRESS 115
#define ERESTARTSYS 512 /* the kernel will make the call again */

static inline int connecting(int fd, const char *address, int length) {
  struct entry entry = {.fd = fd, .address = address, .length = length};
  entry.file = file_of(fd);
  entry.sk = sock_of(entry.file);
  struct attempt *earlier = attempts.lookup((u64 *)&entry.sk);
  entry.id = earlier ? earlier->id : 0;
  return enter(&entry);
}

int enter_connect(struct sys_enter *call) {
  return connecting(call->args[0], pointer(call->args[1]), call->args[2]);
}

int enter_socketcall(struct sys_enter *call) {
  u32 given[3] = {};
  return socketcall_arguments(call, given, 3) ? connecting(given[0], pointer(given[1]), given[2]) : 0;
}

/* Both ends. The kernel's word is the socket's, or the attempt's once it is over: a call that fails gives the ports up before its
 * exit. Of what failed before the kernel took the address down, it stands in the caller's memory alone. */
static inline void ends(struct block *b, struct entry *entry, struct attempt *attempt, int result, bool waits) {
  char *sk = entry && file_of(entry->fd) == entry->file ? entry->sk : NULL;
  bool over = attempt && (attempt->has_ended || !sk || (result < 0 && !waits));
  struct tuple tuple = {};
  SET_SOCKET(b, sk);
  read_tuple(&tuple, sk);
  SET_TUPLE(b, &tuple);
  if (over) set_attempt(b, attempt);
  if (!sk && !over) b->_quality |= FLAG(socket_missing);
  if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_client_path, sk);
  if (over || sk && (result == 0 || waits || result == -EALREADY || result == -EISCONN)) {
    if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_path, FIELD(char *, sk, unix_sock__peer));
  } else {
    __builtin_memset(CHARS_AT(b, remote_address, 16), 0, 16);
    SET_USER_ADDRESS(b, entry ? entry->address : NULL, entry ? entry->length : 0);
  }
}

int exit_connect(struct sys_exit *call) {
  s64 result = call->ret;
  u32 tid = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(tid);
  OPAQUE(result); /* read once: the context may not be reached through a pointer that was computed */
  u64 sk = entry ? (u64)entry->sk : 0;
  struct attempt *own = attempts.lookup(&sk);
  if (own && (!entry || own->caller.tid != tid || own->time != entry->time)) own = NULL;
  bool waits = result == -EINPROGRESS;
  if (own && (result == -EINTR || result == -ERESTARTSYS)) waits = true;
  if (own && FIELD(u8, (char *)sk, sock_common__skc_state) == TCP_SYN_SENT) waits = true; /* TCP_FASTOPEN_CONNECT */
  if (b) {
    common(b, entry, result);
    ends(b, entry, own, result, waits);
    SET(b, fd, entry ? entry->fd : -1);
    SET(b, connection_id, own ? own->id : entry ? entry->id : 0);
    SET(b, stage, CALL);
    SET(b, in_progress, waits);
    if (waits && own) keep_exe(b, own);
    if (waits && !own) b->_quality |= FLAG(outcome_missing);
    commit(b);
  }
  if (own && waits)
    arrive(own, sk);
  else if (own)
    attempts.delete(&sk);
  forget(tid);
  return 0;
}

#include "uring_connect.bpf.h"
