/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * open(2), creat(2), openat(2) and openat2(2), each recorded at its exit: by then the opened file
 * is in the descriptor table, and the page that holds the given path is in memory. The same
 * operations through io_uring are recorded at their completion.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(exe, 4096, 32)                                                                              \
  TEXT(path, 4096, 32)                                                                             \
  TEXT(resolved_path, 4096, 32)                                                                    \
  FIXED(u64, flags)                                                                                \
  FIXED(u64, mode)                                                                                 \
  FIXED(u64, resolve)                                                                              \
  FIXED(s32, dirfd)                                                                                \
  FIXED(s32, fd)                                                                                   \
  FIXED(u8, deleted)
/* The first two stand for flags, mode and resolve. The last is for a request of io_uring that
 * reports no completion if it succeeds. */
#define FLAGS(FLAG) FLAG(flags_missing) FLAG(flags_user_memory) FLAG(return_code_missing)
#define FILTER_PATH resolved_path
#define FILTER_GIVEN_PATH path

struct entry {
  u64 time;
  const char *path;
  const void *how; /* openat2's struct open_how, in user memory */
  u64 flags, mode;
  int dirfd;
  u32 has_how;
};

#include "infrasight.bpf.h"

#define REQUEST_MEMBERS char path[PATH_BYTES];
#include "uring.bpf.h"

OPTIONAL_FIELDS(io_open__dfd, io_open__file_slot, io_open__filename, io_open__how);

#define CREAT_FLAGS 01101 /* O_CREAT | O_WRONLY | O_TRUNC */
#define WILL_CREATE                                                                                \
  020000100UL /* O_CREAT | __O_TMPFILE: only with these the kernel uses the mode */

struct open_how {
  u64 flags, mode, resolve;
};

/* System calls */

static inline int enter_with(int at, unsigned long name, u32 given_flags,
                             unsigned long given_mode) {
  struct entry entry = {.path = pointer(name), .dirfd = at, .flags = given_flags};
  if (given_flags & WILL_CREATE) entry.mode = (u16)given_mode;
  return enter(&entry);
}

int enter_open(struct sys_enter *call) {
  return enter_with(CURRENT_DIRECTORY, call->args[0], call->args[1], call->args[2]);
}

int enter_creat(struct sys_enter *call) {
  return enter_with(CURRENT_DIRECTORY, call->args[0], CREAT_FLAGS, call->args[1]);
}

int enter_openat(struct sys_enter *call) {
  return enter_with(call->args[0], call->args[1], call->args[2], call->args[3]);
}

int enter_openat2(struct sys_enter *call) {
  struct entry entry = {.dirfd = call->args[0],
                        .path = pointer(call->args[1]),
                        .how = pointer(call->args[2]),
                        .has_how = true};
  return enter(&entry);
}

/* Fills the columns of the arguments. */
static inline void set_arguments(struct block *b, struct entry *entry) {
  struct open_how how = {};
  SET(b, dirfd, entry ? entry->dirfd : CURRENT_DIRECTORY);
  if (entry && entry->has_how) {
    b->_quality |= FLAG(flags_user_memory);
    if (bpf_probe_read_user(&how, sizeof(how), entry->how)) b->_quality |= FLAG(flags_missing);
  } else if (entry) {
    how.flags = entry->flags;
    how.mode = entry->mode;
  }
  SET(b, flags, how.flags);
  SET(b, mode, how.mode);
  SET(b, resolve, how.resolve);
  SET_USER_STRING(b, path, entry ? entry->path : NULL);
}

int exit_open(struct sys_exit *call) {
  u32 thread = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(thread);
  if (b) {
    char *file = call->ret >= 0 ? file_of(call->ret) : NULL;
    common(b, entry, call->ret);
    set_arguments(b, entry);
    SET(b, fd, call->ret >= 0 ? call->ret : -1);
    if (call->ret >= 0) SET_PATH(b, resolved_path, file + OFFSET_file__f_path);
    SET(b, deleted, call->ret >= 0 && was_deleted(b));
    commit(b);
  }
  forget(thread);
  return 0;
}

/* Requests of io_uring. Path and flags are the kernel's own copies, so that no row is flagged as
 * coming from user memory. */

static inline bool is_open_request(char *req) {
  u8 opcode = req ? uring_opcode(req) : 0;
  return opcode == URING_OPENAT || opcode == URING_OPENAT2;
}

/* Fills the columns of the arguments. The request's struct io_open is as it was prepared, except
 * for the path, which the kernel has freed by the end. */
static inline void set_request(struct block *b, char *req, struct request *request) {
  char *command = uring_command(req);
  struct open_how how = {};
  SET(b, dirfd, request ? FIELD(int, command, io_open__dfd) : CURRENT_DIRECTORY);
  if (request) bpf_probe_read_kernel(&how, sizeof(how), command + OFFSET_io_open__how);
  how.flags &= ~LARGE_FILE; /* added by the kernel */
  SET(b, flags, how.flags);
  SET(b, mode, how.mode);
  SET(b, resolve, how.resolve);
  if (request)
    SET_KERNEL_STRING(b, path, request->path);
  else
    b->_quality |= TEXT_MISSING(path) | FLAG(flags_missing);
}

/* Writes the row. A descriptor of the ring's own (a direct one) is not one of the process's: `fd`
 * is then -1, and the file cannot be found by it. */
static inline void record_request(char *req, int result, u64 problems) {
  struct block *b = begin();
  if (!b) return;
  WALK_EXE(b); /* see SET_PATH */
  struct request *request = request_of(req);
  bool is_direct = FIELD(u32, uring_command(req), io_open__file_slot);
  bool has_fd = result >= 0 && !is_direct && !problems;
  char *file = has_fd ? file_of(result) : NULL;
  uring_common(b, request, result);
  b->_quality |= problems;
  set_request(b, req, request);
  SET(b, fd, has_fd ? result : -1);
  if (result >= 0) SET_PATH(b, resolved_path, file ? file + OFFSET_file__f_path : NULL);
  SET(b, deleted, file && was_deleted(b));
  commit(b);
}

int submitted(struct uring_submit *call) {
  char *req = call->req;
  struct block *b = is_open_request(req) ? this_block() : NULL;
  if (!b) return 0;
  struct request *request = (void *)walk_of(b)->scratch;
  char *filename = FIELD(char *, uring_command(req), io_open__filename);
  char *name = FIELD(char *, filename, filename__name);
  if (bpf_probe_read_kernel_str(request->path, PATH_BYTES, name) < 0) request->path[0] = 0;
  store_request(call, request);
  if (uring_is_silent(req)) {
    record_request(req, 0, FLAG(return_code_missing));
    forget_request(req);
  }
  return 0;
}

int completed(struct uring_complete *call) {
  char *req = call->req;
  if (!is_open_request(req)) return 0;
  record_request(req, call->res, 0);
  forget_request(req);
  return 0;
}

int overflowed(struct uring_overflow *call) {
  char *req = find_overflowed(call);
  if (req == NOT_STORED) return 0;
  record_request(req, call->res, 0);
  forget_request(req);
  return 0;
}
