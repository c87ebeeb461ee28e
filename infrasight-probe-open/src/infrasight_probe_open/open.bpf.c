/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * open(2), creat(2), openat(2) and openat2(2), each recorded at its exit: by then the opened file stands in the descriptor table,
 * and the page of the path that was given is in memory.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                                            \
  TEXT(exe, 4096, 64)                                                                                                          \
  TEXT(path, 4096, 64)                                                                                                         \
  TEXT(resolved_path, 4096, 64)                                                                                                \
  FIXED(u64, flags)                                                                                                            \
  FIXED(u64, mode)                                                                                                             \
  FIXED(u64, resolve)                                                                                                          \
  FIXED(s32, dirfd)                                                                                                            \
  FIXED(s32, fd)                                                                                                               \
  FIXED(u8, deleted)
/* The first two of flags, mode and resolve; the last of a request of io_uring that was told to say nothing of its success. */
#define FLAGS(FLAG) FLAG(flags_missing) FLAG(flags_user_memory) FLAG(return_code_missing)
#define FILTER_PATH resolved_path

struct entry {
  u64 time;
  const char *path;
  const void *how; /* openat2's struct open_how, in user memory */
  u64 flags, mode;
  int dirfd;
  u32 has_how;
};

#include "infrasight.bpf.h"

#define CREAT_FLAGS 01101       /* O_CREAT | O_WRONLY | O_TRUNC */
#define WILL_CREATE 020000100UL /* O_CREAT | __O_TMPFILE: only then the kernel looks at the mode */

struct open_how {
  u64 flags, mode, resolve;
};

static inline int opening(int dirfd, unsigned long path, u32 flags, unsigned long mode) {
  struct entry entry = {.path = pointer(path), .dirfd = dirfd, .flags = flags, .mode = flags & WILL_CREATE ? (u16)mode : 0};
  return enter(&entry);
}

int enter_open(struct sys_enter *call) {
  return opening(CURRENT_DIRECTORY, call->args[0], call->args[1], call->args[2]);
}

int enter_creat(struct sys_enter *call) {
  return opening(CURRENT_DIRECTORY, call->args[0], CREAT_FLAGS, call->args[1]);
}

int enter_openat(struct sys_enter *call) {
  return opening(call->args[0], call->args[1], call->args[2], call->args[3]);
}

int enter_openat2(struct sys_enter *call) {
  struct entry entry = {.dirfd = call->args[0], .path = pointer(call->args[1]), .how = pointer(call->args[2]), .has_how = true};
  return enter(&entry);
}

/* What the call asked for. */
static inline void asked(struct block *b, struct entry *entry) {
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
  u32 tid = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(tid);
  if (b) {
    char *file = call->ret >= 0 ? file_of(call->ret) : NULL;
    common(b, entry, call->ret);
    asked(b, entry);
    SET(b, fd, call->ret >= 0 ? call->ret : -1);
    if (call->ret >= 0) SET_PATH(b, resolved_path, file + OFFSET_file__f_path);
    SET(b, deleted, call->ret >= 0 && was_deleted(b));
    commit(b);
  }
  forget(tid);
  return 0;
}

#include "uring_open.bpf.h"
