/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Requests of io_uring: operations that pass no system call's tracepoint. A probe that records such
 * requests declares what it stores of a request from its submission to its completion, and includes
 * this file after infrasight.bpf.h:
 *
 *   #define REQUEST_MEMBERS char path[PATH_BYTES];
 *   #include "uring.bpf.h"
 *
 * It attaches three programs with `uring_points`:
 *
 *   int submitted(struct uring_submit *call)      checks uring_opcode(call->req), fills a request,
 *                                                 store_request(call, &request)
 *   int completed(struct uring_complete *call)    request_of(call->req), begin(), uring_common(),
 *                                                 commit(), forget_request(call->req)
 *   int overflowed(struct uring_overflow *call)   the same for the request that
 *                                                 find_overflowed(call) returns
 *
 * A request has been prepared when it is submitted: it points to the kernel's own copies. It may
 * run in the submitting thread, in a worker (`iou-wrk-…`) or in the ring's polling thread
 * (`iou-sqp-…`). All of them are threads of the process, with its files and its memory.
 *
 * Only tasks pass these tracepoints, no interrupt does, so that their programs find the block free
 * (handler.bpf.h).
 */
#ifndef REQUESTS /* how many requests may be in progress */
#define REQUESTS 4096
#endif

#define FIXED_FILE 1 /* IOSQE_FIXED_FILE: the number is of a file registered with the ring */
#define SKIP_SUCCESS (1 << 6) /* IOSQE_CQE_SKIP_SUCCESS */

/* A kernel built without io_uring lacks these, and the tracepoints, so that no program runs. */
OPTIONAL_FIELDS(io_kiocb__cmd, io_kiocb__file, io_kiocb__flags, io_kiocb__opcode);
OPTIONAL_FIELDS(io_kiocb__cqe__fd);

struct uring_submit {
  u64 common, ring;
  char *req;
  u64 user_data;
};

struct uring_complete {
  u64 common, ring;
  char *req; /* NULL for a further completion of a multishot request; user_data identifies it */
  u64 user_data;
  int res;
  u32 flags;
};

/* A completion that the ring has no room for. It does not identify its request. */
struct uring_overflow {
  u64 common, ring, user_data;
  int res;
  u32 flags;
};

/* enum io_uring_op, as far as it is needed here */
enum uring_opcode { URING_ACCEPT = 13, URING_CONNECT = 16, URING_OPENAT = 18, URING_OPENAT2 = 28 };

/* The program's own name for a request. Several requests may have the same. */
struct uring_name {
  u64 ring, user_data;
};

/* The requests of one name: the last one, how many are stored, and how many of these have ended
 * without the kernel saying which. */
struct uring_named {
  u64 req;
  u32 count, ended;
};

struct request {
  u64 time;
  struct uring_name name;
  REQUEST_MEMBERS
};

BPF_F_TABLE("hash", u64, struct request, requests, REQUESTS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct uring_name, struct uring_named, named_requests, REQUESTS,
            BPF_F_NO_PREALLOC);

static inline u8 uring_opcode(char *req) {
  return FIELD(u8, req, io_kiocb__opcode);
}

/* What the request asks for, prepared: a struct io_open, io_connect, io_accept … */
static inline char *uring_command(char *req) {
  return req + OFFSET_io_kiocb__cmd;
}

/* The `struct file` that a request works on; NULL before it has begun. */
static inline char *uring_file(char *req) {
  return req ? FIELD(char *, req, io_kiocb__file) : NULL;
}

/* The descriptor that a request names, -1 for one of the ring's own. Valid only when the request is
 * submitted. */
static inline int uring_fd(char *req) {
  if (FIELD(u32, req, io_kiocb__flags) & FIXED_FILE) return -1;
  return FIELD(int, req, io_kiocb__cqe__fd);
}

/* Whether the kernel reports no completion if the request succeeds. Such a request must be recorded
 * when it is submitted. */
static inline bool uring_is_silent(char *req) {
  return FIELD(u32, req, io_kiocb__flags) & SKIP_SUCCESS;
}

static inline struct request *request_of(char *req) {
  u64 key = (u64)req;
  return requests.lookup(&key);
}

static inline void forget_request(char *req) {
  u64 key = (u64)req;
  struct request *request = requests.lookup(&key);
  if (!request) return;
  struct uring_name name = request->name;
  struct uring_named *named = named_requests.lookup(&name);
  if (named && named->count > 1)
    __sync_fetch_and_add(&named->count, -1);
  else
    named_requests.delete(&name);
  requests.delete(&key);
}

/* Discards a stored request whose memory another request has now. Its end was never seen, unless an
 * overflow reported it. */
static inline void give_up_request(struct block *b, char *req, struct request *request) {
  struct uring_name name = request->name;
  struct uring_named *named = named_requests.lookup(&name);
  if (named && named->ended)
    __sync_fetch_and_add(&named->ended, -1);
  else
    b->_untraced++;
  forget_request(req);
}

/* Stores a request from its submission to its completion and sets its time and name. Without room
 * for it, the event is still recorded, flagged ENTRY_MISSING. */
static inline int store_request(struct uring_submit *call, struct request *request) {
  u64 key = (u64)call->req;
  struct uring_name name = {call->ring, call->user_data};
  struct uring_named first = {.req = key, .count = 1};
  struct request *earlier = requests.lookup(&key);
  struct block *b = this_block();
  if (!b) return 0;
  if (earlier) give_up_request(b, call->req, earlier);
  request->time = bpf_ktime_get_boot_ns();
  request->name = name;
  if (requests.update(&key, request)) {
    b->_entries_full++;
    return 0;
  }
  struct uring_named *named = named_requests.lookup(&name);
  if (named) {
    named->req = key;
    __sync_fetch_and_add(&named->count, 1);
  } else {
    named_requests.update(&name, &first);
  }
  return 0;
}

/* The request of an overflow: NOT_STORED if it is none of the stored ones, NULL if it is one of
 * several with the same name. */
#define NOT_STORED ((char *)-1)
static inline char *find_overflowed(struct uring_overflow *call) {
  struct uring_name name = {call->ring, call->user_data};
  struct uring_named *named = named_requests.lookup(&name);
  if (!named) return NOT_STORED;
  if (named->count == 1) return (char *)named->req;
  __sync_fetch_and_add(&named->ended, 1);
  return NULL;
}

/* Fills the header's columns. `request` may be NULL: the row is then flagged ENTRY_MISSING. */
static inline void uring_common(struct block *b, struct request *request, int result) {
  if (!request) b->_quality |= ENTRY_MISSING;
  fill_header(b, request ? request->time : 0, result, VIA_IO_URING);
}
