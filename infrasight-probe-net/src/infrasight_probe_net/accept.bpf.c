/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * accept(2) and accept4(2), each recorded at its exit: by then the new connection's socket is in
 * the descriptor table. The same operation through io_uring is recorded at each completion: a
 * multishot request completes repeatedly, and each completion is a row that begins when the one
 * before ended.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(exe, 4096, 64)                                                                              \
  TEXT(unix_path, 128, 16)                                                                         \
  TEXT(unix_client_path, 128, 16)                                                                  \
  CHARS(local_address, 16)                                                                         \
  CHARS(remote_address, 16)                                                                        \
  FIXED(u32, local_port)                                                                           \
  FIXED(u32, remote_port)                                                                          \
  FIXED(u32, family)                                                                               \
  FIXED(u32, socket_type)                                                                          \
  FIXED(u32, protocol)                                                                             \
  FIXED(u32, flags)                                                                                \
  FIXED(s32, listen_fd)                                                                            \
  FIXED(s32, fd)
/* The last is for a request of io_uring that reports no completion if it succeeds. */
#define FLAGS(FLAG) FLAG(socket_missing) FLAG(remote_address_missing) FLAG(return_code_missing)
#define FILTER_PATH unix_path

struct entry {
  u64 time;
  char *file; /* the kernel's struct file of listen_fd */
  u32 flags;
  int listen_fd;
};

#include "infrasight.bpf.h"
#include "socket.bpf.h"

#define REQUEST_MEMBERS                                                                            \
  int listen_fd;                                                                                   \
  u32 flags;
#include "uring.bpf.h"

OPTIONAL_FIELDS(io_accept__file_slot, io_accept__flags, io_accept__iou_flags);

#define MULTISHOT 1 /* IORING_ACCEPT_MULTISHOT */
#define MORE 2      /* IORING_CQE_F_MORE */

/* Fills the columns of both ends of the new connection; for a call that failed, the local end as
 * the listening socket has it. */
static inline void set_ends(struct block *b, char *listening, char *accepted, bool failed) {
  char *sk = accepted ?: listening;
  struct tuple tuple = {};
  if (!sk) b->_quality |= FLAG(socket_missing);
  if (!failed && !accepted)
    b->_quality |= FLAG(remote_address_missing) | TEXT_MISSING(unix_client_path);
  read_tuple(&tuple, sk);
  SET_TUPLE(b, &tuple);
  SET_SOCKET(b, sk);
  if (accepted && !has_address_columns(GET(b, family))) b->_quality |= FLAG(remote_address_missing);
  if (GET(b, family) != AF_UNIX) return;
  SET_UNIX_PATH(b, unix_path, sk);
  SET_UNIX_PATH(b, unix_client_path, FIELD(char *, accepted, unix_sock__peer));
}

/* System calls */

static inline int enter_with(int listening, u32 given_flags) {
  struct entry entry = {.file = file_of(listening), .listen_fd = listening, .flags = given_flags};
  return enter(&entry);
}

int enter_accept(struct sys_enter *call) {
  return enter_with(call->args[0], 0);
}

int enter_accept4(struct sys_enter *call) {
  return enter_with(call->args[0], call->args[3]);
}

int exit_accept(struct sys_exit *call) {
  int result = call->ret;
  u32 thread = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(thread);
  if (b) {
    char *file = entry ? file_of(entry->listen_fd) : NULL;
    char *listening = file && file == entry->file ? sock_of(file) : NULL;
    common(b, entry, result);
    SET(b, flags, entry ? entry->flags : 0);
    SET(b, listen_fd, entry ? entry->listen_fd : -1);
    SET(b, fd, result >= 0 ? result : -1);
    set_ends(b, listening, result >= 0 ? sock_of(file_of(result)) : NULL, result < 0);
    commit(b);
  }
  forget(thread);
  return 0;
}

/* Requests of io_uring */

/* Writes the row. A new descriptor of the ring's own (a direct one) is not one of the process's:
 * `fd` is then -1, and the connection's socket cannot be found by it. `req` is NULL if it is not
 * known which of several requests completed. */
static inline void record_request(char *req, int result, u64 problems) {
  struct block *b = begin();
  if (!b) return;
  WALK_EXE(b); /* see SET_PATH */
  struct request *request = request_of(req);
  bool is_direct = req && FIELD(u32, uring_command(req), io_accept__file_slot);
  char *listening = sock_of(uring_file(req));
  char *accepted = NULL;
  if (problems && request) /* submitted: the kernel has not looked the file up yet */
    listening = sock_of(file_of(request->listen_fd));
  if (result >= 0 && !is_direct && !problems) accepted = sock_of(file_of(result));
  bool has_fd = result >= 0 && !problems && (accepted || (req && !is_direct));
  uring_common(b, request, result);
  b->_quality |= problems;
  SET(b, flags, request ? request->flags : 0);
  SET(b, listen_fd, request ? request->listen_fd : -1);
  SET(b, fd, has_fd ? result : -1);
  set_ends(b, listening, accepted, result < 0);
  commit(b);
}

/* Discards a request that has ended, or starts the time of its next completion. */
static inline void finish_completion(char *req, bool has_more) {
  struct request *request = request_of(req);
  if (!has_more)
    forget_request(req);
  else if (request)
    request->time = bpf_ktime_get_boot_ns();
}

/* The request of a completion that the kernel identifies by its name alone; the result is like that
 * of find_overflowed(). */
static inline char *find_multishot(struct uring_complete *call) {
  struct uring_name name = {call->ring, call->user_data};
  struct uring_named *named = call->flags & MORE ? named_requests.lookup(&name) : NULL;
  if (!named) return NOT_STORED;
  char *req = (char *)named->req;
  if (HAS_FIELD(io_accept__iou_flags) &&
      !(FIELD(u32, uring_command(req), io_accept__iou_flags) & MULTISHOT))
    return NOT_STORED;
  return named->count == 1 ? req : NULL;
}

int submitted(struct uring_submit *call) {
  char *req = call->req;
  if (uring_opcode(req) != URING_ACCEPT) return 0;
  struct request request = {.listen_fd = uring_fd(req),
                            .flags = FIELD(u32, uring_command(req), io_accept__flags)};
  store_request(call, &request);
  if (uring_is_silent(req)) {
    record_request(req, 0, FLAG(return_code_missing));
    forget_request(req);
  }
  return 0;
}

int completed(struct uring_complete *call) {
  bool is_further = !call->req;
  char *req = is_further ? find_multishot(call) : call->req;
  if (req == NOT_STORED) return 0;
  if (!is_further && uring_opcode(req) != URING_ACCEPT) return 0;
  record_request(req, call->res, 0);
  finish_completion(req, is_further);
  return 0;
}

int overflowed(struct uring_overflow *call) {
  char *req = find_overflowed(call);
  if (req == NOT_STORED) return 0;
  record_request(req, call->res, 0);
  finish_completion(req, call->flags & MORE);
  return 0;
}
