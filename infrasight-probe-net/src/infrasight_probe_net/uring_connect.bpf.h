/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Connects through io_uring. The kernel waits for the end itself, so that a completion is the outcome and no second row follows.
 */
#define REQUEST_MEMBERS                                                                                                        \
  int fd;                                                                                                                      \
  int length;                                                                                                                  \
  char address[128]; /* from the program's memory, when it was submitted */

#include "uring_socket.bpf.h"

/* Both ends, as of a call: from the socket; of an attempt that failed as they were before the kernel cleared it; else as asked. */
static inline void request_ends(struct block *b, char *sk, struct request *request, struct begun *begun, int result) {
  bool is_over = result < 0 && begun && FIELD(u8, sk, sock_common__skc_state) != TCP_SYN_SENT;
  struct tuple tuple = {};
  SET_SOCKET(b, sk);
  read_tuple(&tuple, sk);
  if (is_over) tuple = begun->tuple;
  SET_TUPLE(b, &tuple);
  if (!sk) b->_quality |= FLAG(socket_missing);
  if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_client_path, sk);
  bool is_silent = b->_quality & FLAG(return_code_missing);
  if (begun || sk && !is_silent && (result == 0 || result == -EINPROGRESS || result == -EALREADY || result == -EISCONN)) {
    if (GET(b, family) == AF_UNIX) SET_UNIX_PATH(b, unix_path, FIELD(char *, sk, unix_sock__peer));
  } else {
    __builtin_memset(CHARS_AT(b, remote_address, 16), 0, 16);
    SET_ADDRESS(b, bpf_probe_read_kernel, request ? request->address : NULL, request ? request->length : 0);
  }
}

static inline void record_request(char *sk, struct request *request, int result, u64 quality) {
  u64 key = (u64)sk;
  struct begun *begun = others.lookup(&key);
  if (begun && (!request || begun->time < request->time)) begun = NULL; /* an earlier request's */
  struct block *b = begin();
  if (!b) return;
  uring_common(b, request, result);
  b->_quality |= quality;
  if (result == -EINPROGRESS) b->_quality |= FLAG(outcome_missing);
  WALK_EXE(b);
  SET(b, fd, request ? request->fd : -1);
  SET(b, connection_id, begun ? begun->id : 0);
  SET(b, stage, CALL);
  SET(b, in_progress, result == -EINPROGRESS);
  request_ends(b, sk, request, begun, result);
  commit(b);
}

int submitted(struct uring_submit *call) {
  char *req = call->req, *command = uring_command(req);
  struct block *b = uring_opcode(req) == URING_CONNECT ? this_block() : NULL;
  if (!b) return 0;
  struct request *request = (void *)walk_of(b)->scratch;
  s64 length = FIELD(int, command, io_connect__addr_len);
  request->fd = uring_fd(req);
  request->length = length;
  OPAQUE(length);
  if (length < 0 || length > 128) length = 0;
  if (bpf_probe_read_user(request->address, length, FIELD(void *, command, io_connect__addr))) request->length = 0;
  keep_request(call, request);
  if (uring_is_silent(req)) {
    record_request(sock_of(file_of(request->fd)), request_of(req), 0, FLAG(return_code_missing));
    forget_request(req);
  }
  return 0;
}

int completed(struct uring_complete *call) {
  char *req = call->req;
  if (!req || uring_opcode(req) != URING_CONNECT) return 0;
  record_request(uring_sock(req), request_of(req), call->res, 0);
  forget_request(req);
  return 0;
}

int overflowed(struct uring_overflow *call) {
  char *req = find_overflowed(call);
  if (req == NOT_KEPT) return 0;
  record_request(uring_sock(req), request_of(req), call->res, 0);
  forget_request(req);
  return 0;
}
