/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Opens through io_uring. Path and flags are the kernel's own copies, so no row says that they are user memory's.
 */
#define REQUEST_MEMBERS char path[PATH_BYTES];

#include "uring.bpf.h"

static inline bool opens(char *req) {
  u8 opcode = req ? uring_opcode(req) : 0;
  return opcode == URING_OPENAT || opcode == URING_OPENAT2;
}

/* What the request asked for; its struct io_open is as it was prepared, but for the path, which has been freed by the end. */
static inline void asked_by(struct block *b, char *req, struct request *request) {
  char *command = uring_command(req);
  struct open_how how = {};
  SET(b, dirfd, request ? FIELD(int, command, io_open__dfd) : CURRENT_DIRECTORY);
  if (request) bpf_probe_read_kernel(&how, sizeof(how), command + OFFSET_io_open__how);
  how.flags &= ~LARGE_FILE; /* the kernel adds it itself */
  SET(b, flags, how.flags);
  SET(b, mode, how.mode);
  SET(b, resolve, how.resolve);
  if (request)
    SET_KERNEL_STRING(b, path, request->path);
  else
    b->_quality |= TEXT_MISSING(path) | FLAG(flags_missing);
}

/* The row. A descriptor of the ring's own (a direct one) is none of the process's: `fd` is -1, and the file is not found by it. */
static inline void record_request(char *req, int result, u64 quality) {
  struct block *b = begin();
  if (!b) return;
  WALK_EXE(b); /* see SET_PATH */
  struct request *request = request_of(req);
  bool is_direct = FIELD(u32, uring_command(req), io_open__file_slot), has_fd = result >= 0 && !is_direct && !quality;
  char *file = has_fd ? file_of(result) : NULL;
  uring_common(b, request, result);
  b->_quality |= quality;
  asked_by(b, req, request);
  SET(b, fd, has_fd ? result : -1);
  if (result >= 0) SET_PATH(b, resolved_path, file ? file + OFFSET_file__f_path : NULL);
  SET(b, deleted, file && was_deleted(b));
  commit(b);
}

int submitted(struct uring_submit *call) {
  char *req = call->req;
  struct block *b = opens(req) ? this_block() : NULL;
  if (!b) return 0;
  struct request *request = (void *)walk_of(b)->scratch;
  char *name = FIELD(char *, uring_command(req), io_open__filename);
  if (bpf_probe_read_kernel_str(request->path, PATH_BYTES, FIELD(char *, name, filename__name)) < 0) request->path[0] = 0;
  keep_request(call, request);
  if (uring_is_silent(req)) {
    record_request(req, 0, FLAG(return_code_missing));
    forget_request(req);
  }
  return 0;
}

int completed(struct uring_complete *call) {
  char *req = call->req;
  if (!opens(req)) return 0;
  record_request(req, call->res, 0);
  forget_request(req);
  return 0;
}

int overflowed(struct uring_overflow *call) {
  char *req = find_overflowed(call);
  if (req == NOT_KEPT) return 0;
  record_request(req, call->res, 0);
  forget_request(req);
  return 0;
}
