/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * connect(2), recorded at its exit from the kernel's socket, the same operation through io_uring,
 * and the outcome of a TCP attempt that outlives its call (attempt.bpf.h). An attempt is stored by
 * its socket from the state SYN_SENT on, which the kernel sets within the call, until both of these
 * have come: the call's exit, and the socket's next state, which the kernel may set on another CPU
 * and in any task.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(exe, 4096, 64)                                                                              \
  TEXT(unix_path, 128, 16)                                                                         \
  TEXT(unix_client_path, 128, 16)                                                                  \
  CHARS(local_address, 16)                                                                         \
  CHARS(remote_address, 16)                                                                        \
  FIXED(u64, connection_id)                                                                        \
  FIXED(u32, local_port)                                                                           \
  FIXED(u32, remote_port)                                                                          \
  FIXED(u32, family)                                                                               \
  FIXED(u32, socket_type)                                                                          \
  FIXED(u32, protocol)                                                                             \
  FIXED(s32, fd)                                                                                   \
  FIXED(u8, stage)                                                                                 \
  FIXED(u8, in_progress)
#define FLAGS(FLAG)                                                                                \
  FLAG(socket_missing)                                                                             \
  FLAG(remote_address_missing)                                                                     \
  FLAG(remote_address_user_memory)                                                                 \
  FLAG(outcome_missing)                                                                            \
  FLAG(return_code_missing)                                                                        \
  FLAG(duration_ns_missing)
#define FILTER_PATH unix_path

struct entry {
  u64 time, id;    /* `id` is that of an attempt that an earlier call began */
  char *file, *sk; /* the kernel's objects of fd */
  const char *address;
  s64 length;
  int fd;
};

#include "infrasight.bpf.h"
#include "socket.bpf.h"
#include "caller.bpf.h"
#include "attempt.bpf.h"

#define REQUEST_MEMBERS                                                                            \
  int fd;                                                                                          \
  int length;                                                                                      \
  char address[MAX_ADDRESS_BYTES]; /* copied from user memory at the submission */
#include "uring.bpf.h"

OPTIONAL_FIELDS(io_connect__addr, io_connect__addr_len);

#define EINTR 4
#define EISCONN 106
#define EALREADY 114
#define EINPROGRESS 115
#define ERESTARTSYS 512 /* the kernel will restart the call */

/* Whether the kernel accepted the address, so that the socket's peer is the one asked for. */
static inline bool has_peer(int result) {
  return result == 0 || result == -EINPROGRESS || result == -EALREADY || result == -EISCONN;
}

/* Removes the remote address of an earlier connection, which the socket may still have. */
static inline void clear_remote_address(struct block *b) {
  __builtin_memset(CHARS_AT(b, remote_address, 16), 0, 16);
}

/* System calls */

static inline int enter_with(int descriptor, const char *address, int length) {
  struct entry entry = {.fd = descriptor, .address = address, .length = length};
  entry.file = file_of(descriptor);
  entry.sk = sock_of(entry.file);
  struct attempt *earlier = attempts.lookup((u64 *)&entry.sk);
  entry.id = earlier ? earlier->id : 0;
  return enter(&entry);
}

int enter_connect(struct sys_enter *call) {
  return enter_with(call->args[0], pointer(call->args[1]), call->args[2]);
}

/* Fills the columns of both ends: from the socket, or from the attempt once that is over, because a
 * call that fails releases the ports before its exit. If the call failed before the kernel stored
 * the address, only user memory has it. */
static inline void set_ends(struct block *b, struct entry *entry, struct attempt *attempt,
                            int result, bool is_waiting) {
  char *sk = entry && file_of(entry->fd) == entry->file ? entry->sk : NULL;
  bool is_over = attempt && (attempt->has_ended || !sk || (result < 0 && !is_waiting));
  struct tuple tuple = {};
  SET_SOCKET(b, sk);
  read_tuple(&tuple, sk);
  SET_TUPLE(b, &tuple);
  if (is_over) {
    set_local_port(&attempt->tuple, entry ? entry->sk : NULL);
    set_attempt(b, attempt);
  }
  if (!sk && !is_over) b->_quality |= FLAG(socket_missing);
  if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_client_path, sk);
  if (is_over || (sk && (is_waiting || has_peer(result)))) {
    if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_path, FIELD(char *, sk, unix_sock__peer));
    if (!has_address_columns(GET(b, family))) b->_quality |= FLAG(remote_address_missing);
  } else {
    clear_remote_address(b);
    SET_USER_ADDRESS(b, entry ? entry->address : NULL, entry ? entry->length : 0);
  }
}

int exit_connect(struct sys_exit *call) {
  s64 result = call->ret;
  u32 thread = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(thread);
  u64 sk = entry ? (u64)entry->sk : 0;
  struct attempt *own = attempts.lookup(&sk);
  if (own) {
    struct header *begun_by = &own->caller.header;
    if (!entry || begun_by->tid != thread || begun_by->time != entry->time) own = NULL;
  }
  bool is_waiting = result == -EINPROGRESS;
  if (own && (result == -EINTR || result == -ERESTARTSYS)) is_waiting = true;
  if (own && FIELD(u8, (char *)sk, sock_common__skc_state) == TCP_SYN_SENT)
    is_waiting = true; /* TCP_FASTOPEN_CONNECT */
  if (b) {
    u64 id = entry ? entry->id : 0;
    if (own) id = own->id;
    common(b, entry, result);
    set_ends(b, entry, own, result, is_waiting);
    SET(b, fd, entry ? entry->fd : -1);
    SET(b, connection_id, id);
    SET(b, stage, CALL);
    SET(b, in_progress, is_waiting);
    if (is_waiting && own) store_exe(b, own);
    if (is_waiting && !own) b->_quality |= FLAG(outcome_missing);
    commit(b);
  }
  if (own && is_waiting)
    arrive(own, sk);
  else if (own)
    attempts.delete(&sk);
  forget(thread);
  return 0;
}

/* Requests of io_uring. The kernel itself waits for the end, so that a completion is the outcome
 * and no second row follows. */

/* Fills the columns of both ends: from the socket; for an attempt that failed, as they were before
 * the kernel cleared the socket; otherwise as the request asked for. */
static inline void set_request_ends(struct block *b, char *sk, struct request *request,
                                    struct other_attempt *begun, int result) {
  bool is_silent = b->_quality & FLAG(return_code_missing);
  bool is_over = result < 0 && begun && FIELD(u8, sk, sock_common__skc_state) != TCP_SYN_SENT;
  struct tuple tuple = {};
  SET_SOCKET(b, sk);
  read_tuple(&tuple, sk);
  if (is_over) {
    tuple = begun->tuple;
    set_local_port(&tuple, sk);
  }
  SET_TUPLE(b, &tuple);
  if (!sk) b->_quality |= FLAG(socket_missing);
  if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_client_path, sk);
  if (begun || (sk && !is_silent && has_peer(result))) {
    if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_path, FIELD(char *, sk, unix_sock__peer));
    if (!has_address_columns(GET(b, family))) b->_quality |= FLAG(remote_address_missing);
  } else {
    clear_remote_address(b);
    SET_ADDRESS(b, bpf_probe_read_kernel, request ? request->address : NULL,
                request ? request->length : 0);
  }
}

static inline void record_request(char *sk, char *req, int result, u64 problems) {
  struct block *b = begin();
  if (!b) return;
  WALK_EXE(b); /* see SET_PATH */
  u64 key = (u64)sk;
  struct request *request = request_of(req);
  struct other_attempt *begun = other_attempts.lookup(&key);
  bool is_earlier = begun && (!request || begun->time < request->time);
  if (is_earlier) begun = NULL;
  uring_common(b, request, result);
  b->_quality |= problems;
  if (result == -EINPROGRESS) b->_quality |= FLAG(outcome_missing);
  SET(b, fd, request ? request->fd : -1);
  SET(b, connection_id, begun ? begun->id : 0);
  SET(b, stage, CALL);
  SET(b, in_progress, result == -EINPROGRESS);
  set_request_ends(b, sk, request, begun, result);
  commit(b);
}

int submitted(struct uring_submit *call) {
  char *req = call->req;
  char *command = uring_command(req);
  struct block *b = uring_opcode(req) == URING_CONNECT ? this_block() : NULL;
  if (!b) return 0;
  struct request *request = (void *)walk_of(b)->scratch;
  char *address = FIELD(char *, command, io_connect__addr);
  s64 length = FIELD(int, command, io_connect__addr_len);
  request->fd = uring_fd(req);
  request->length = length;
  OPAQUE(length);
  if (length < 0 || length > MAX_ADDRESS_BYTES) length = 0;
  if (bpf_probe_read_user(request->address, length, address)) request->length = 0;
  store_request(call, request);
  if (uring_is_silent(req)) {
    char *sk = sock_of(file_of(request->fd));
    record_request(sk, req, 0, FLAG(return_code_missing));
    forget_request(req);
  }
  return 0;
}

int completed(struct uring_complete *call) {
  char *req = call->req;
  if (!req || uring_opcode(req) != URING_CONNECT) return 0;
  record_request(sock_of(uring_file(req)), req, call->res, 0);
  forget_request(req);
  return 0;
}

int overflowed(struct uring_overflow *call) {
  char *req = find_overflowed(call);
  if (req == NOT_STORED) return 0;
  record_request(sock_of(uring_file(req)), req, call->res, 0);
  forget_request(req);
  return 0;
}
