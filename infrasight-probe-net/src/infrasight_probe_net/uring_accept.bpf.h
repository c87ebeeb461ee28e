/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Accepts through io_uring. A multishot one completes again and again: each time is a row, which begins when the one before ended.
 */
#define REQUEST_MEMBERS                                                                                                        \
  int fd;                                                                                                                      \
  u32 flags;

#include "uring_socket.bpf.h"

#define MULTISHOT 1 /* IORING_ACCEPT_MULTISHOT */
#define MORE 2      /* IORING_CQE_F_MORE */

/* The row. A new descriptor of the ring's own (a direct one) is none of the process's: `fd` is -1, and the connection's socket is
 * not found by it. `req` is NULL where it is not known which of several requests it was. */
static inline void record_request(char *req, struct request *request, int result, u64 quality) {
  struct block *b = begin();
  if (!b) return;
  bool is_direct = req && FIELD(u32, uring_command(req), io_accept__file_slot);
  char *listening = uring_sock(req), *accepted = NULL;
  if (quality && request) listening = sock_of(file_of(request->fd)); /* the kernel has not looked yet */
  if (result >= 0 && !is_direct && !quality) accepted = sock_of(file_of(result));
  uring_common(b, request, result);
  b->_quality |= quality;
  WALK_EXE(b);
  SET(b, flags, request ? request->flags : 0);
  SET(b, listen_fd, request ? request->fd : -1);
  SET(b, fd, result >= 0 && !quality && (accepted || req && !is_direct) ? result : -1);
  ends(b, listening, accepted, result < 0);
  commit(b);
}

/* It has ended, or goes on until its next completion. */
static inline void has_completed(char *req, struct request *request, bool goes_on) {
  if (!goes_on)
    forget_request(req);
  else if (request)
    request->time = bpf_ktime_get_boot_ns();
}

/* The request of a completion that the kernel tells of by its name alone; as find_overflowed(). */
static inline char *find_multishot(struct uring_complete *call) {
  struct uring_name name = {call->ring, call->user_data};
  struct uring_named *named = call->flags & MORE ? named_requests.lookup(&name) : NULL;
  if (!named) return NOT_KEPT;
  char *req = (char *)named->req;
  if (OFFSET_io_accept__iou_flags >= 0 && !(FIELD(u32, uring_command(req), io_accept__iou_flags) & MULTISHOT)) return NOT_KEPT;
  return named->count == 1 ? req : NULL;
}

int submitted(struct uring_submit *call) {
  char *req = call->req;
  if (uring_opcode(req) != URING_ACCEPT) return 0;
  struct request request = {.fd = uring_fd(req), .flags = FIELD(u32, uring_command(req), io_accept__flags)};
  keep_request(call, &request);
  if (uring_is_silent(req)) {
    record_request(req, request_of(req), 0, FLAG(return_code_missing));
    forget_request(req);
  }
  return 0;
}

int completed(struct uring_complete *call) {
  bool is_further = !call->req;
  char *req = is_further ? find_multishot(call) : call->req;
  if (req == NOT_KEPT || (!is_further && uring_opcode(req) != URING_ACCEPT)) return 0;
  struct request *request = request_of(req);
  record_request(req, request, call->res, 0);
  has_completed(req, request, is_further);
  return 0;
}

int overflowed(struct uring_overflow *call) {
  char *req = find_overflowed(call);
  if (req == NOT_KEPT) return 0;
  struct request *request = request_of(req);
  record_request(req, request, call->res, 0);
  has_completed(req, request, call->flags & MORE);
  return 0;
}
