/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Requests of io_uring: operations that pass no system call's tracepoint. A probe that records some includes this file after
 * infrasight.bpf.h, when it has said what it keeps of a request from its submission to its completion:
 *
 *   #define REQUEST_MEMBERS char path[PATH_BYTES];
 *   #include "uring.bpf.h"
 *
 *   int submitted(struct uring_submit *call)       looks at uring_opcode(call->req), fills a request, keep_request(call, &request)
 *   int completed(struct uring_complete *call)     request_of(call->req), begin(), uring_common(), commit(), forget_request(call->req)
 *   int overflowed(struct uring_overflow *call)    the same of the request that find_overflowed(call) names
 *
 * and attaches them with `uring_points`, its optional_fields with `URING_FIELDS`. When it is submitted a request has been prepared:
 * what it points at is the kernel's own copy. It may be worked on in the submitting thread, in a worker (`iou-wrk-…`) or in the
 * ring's polling thread (`iou-sqp-…`), all of them threads of the process, with its files and its memory.
 *
 * These programs and those on system calls never nest on a CPU: all of these tracepoints are passed by tasks, none by an
 * interrupt, and a program on a perf-type tracepoint runs with preemption off. Should one come while another runs all the same,
 * the kernel leaves it out (bpf_prog_active), so a block has one writer in any case.
 */
#ifndef REQUESTS /* how many of them may be under way */
#define REQUESTS 4096
#endif

struct uring_submit {
  u64 common, ring;
  char *req;
  u64 user_data;
};

struct uring_complete {
  u64 common, ring;
  char *req; /* NULL: a further completion of a multishot request, which user_data tells of alone */
  u64 user_data;
  int res;
  u32 flags;
};

/* A completion for which the ring has no room. It does not say of which request it is. */
struct uring_overflow {
  u64 common, ring, user_data;
  int res;
  u32 flags;
};

/* enum io_uring_op, as far as known here */
enum uring_opcode { URING_ACCEPT = 13, URING_CONNECT = 16, URING_OPENAT = 18, URING_OPENAT2 = 28 };

/* What the program calls a request; several may have the same name. */
struct uring_name {
  u64 ring, user_data;
};

struct uring_named {
  u64 req;
  u32 count, told; /* how many are kept that have the name; of how many the end has been told without knowing which */
};

struct request {
  u64 time;
  struct uring_name name;
  REQUEST_MEMBERS
};

BPF_F_TABLE("hash", u64, struct request, requests, REQUESTS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct uring_name, struct uring_named, named_requests, REQUESTS, BPF_F_NO_PREALLOC);

static inline u8 uring_opcode(char *req) {
  return FIELD(u8, req, io_kiocb__opcode);
}

/* What the request is about, prepared: a struct io_open, io_connect, io_accept … */
static inline char *uring_command(char *req) {
  return req + OFFSET_io_kiocb__cmd;
}

/* Whether no completion will be told of if it succeeds (IOSQE_CQE_SKIP_SUCCESS): what is not recorded now never is. */
static inline bool uring_is_silent(char *req) {
  return FIELD(u32, req, io_kiocb__flags) & 1 << 6;
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

/* A request that is still kept although another one has its memory now: nothing told of its end, unless an overflow did. */
static inline void give_up(struct block *b, char *req, struct request *request) {
  struct uring_name name = request->name;
  struct uring_named *named = named_requests.lookup(&name);
  if (named && named->told)
    __sync_fetch_and_add(&named->told, -1);
  else
    b->_untraced++;
  forget_request(req);
}

/* Keeps what the submission tells until the completion; without it the event is recorded all the same, as ENTRY_MISSING. */
static inline int keep_request(struct uring_submit *call, struct request *request) {
  u64 key = (u64)call->req;
  struct uring_name name = {call->ring, call->user_data};
  struct uring_named *named, only = {.req = key, .count = 1};
  struct request *before = requests.lookup(&key);
  struct block *b = this_block();
  if (!b) return 0;
  if (before) give_up(b, call->req, before);
  request->time = bpf_ktime_get_boot_ns();
  request->name = name;
  if (requests.update(&key, request)) {
    b->_entries_full++;
    return 0;
  }
  named = named_requests.lookup(&name);
  if (named) {
    named->req = key;
    __sync_fetch_and_add(&named->count, 1);
  } else
    named_requests.update(&name, &only);
  return 0;
}

/* The request of an overflow: NOT_KEPT if it is none that is kept, NULL if it is one of several with the same name. */
#define NOT_KEPT ((char *)-1)
static inline char *find_overflowed(struct uring_overflow *call) {
  struct uring_name name = {call->ring, call->user_data};
  struct uring_named *named = named_requests.lookup(&name);
  if (!named) return NOT_KEPT;
  if (named->count == 1) return (char *)named->req;
  __sync_fetch_and_add(&named->told, 1);
  return NULL;
}

/* Fills the header's columns. */
static inline void uring_common(struct block *b, struct request *request, int result) {
  if (!request) b->_quality |= ENTRY_MISSING;
  header(b, request ? request->time : 0, result, VIA_IO_URING);
}
