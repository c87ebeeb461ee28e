/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * chmod(2), fchmod(2), fchmodat(2) and fchmodat2(2). The file of a descriptor is the kernel's own, and its old mode is read
 * before the call. The file of a call by path shows at a function of the kernel (changed.bpf.h); where no program may hang on it,
 * or the call failed before it, the path is the kernel's directory and the string given.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                                            \
  TEXT(exe, 4096, 64)                                                                                                          \
  TEXT(path, 4096, 64)                                                                                                         \
  TEXT(resolved_path, 8192, 64)                                                                                                \
  FIXED(u32, mode)                                                                                                             \
  FIXED(u32, old_mode)                                                                                                         \
  FIXED(u32, at_flags)                                                                                                         \
  FIXED(s32, dirfd)                                                                                                            \
  FIXED(s32, fd)
#define FLAGS(FLAG) FLAG(old_mode_missing)
#define FILTER_PATH resolved_path

struct entry {
  u64 time;
  const char *path;
  char *file; /* the kernel's, of fd or dirfd */
  u32 mode, old_mode, at_flags, by_path;
  int dirfd, fd;
};

#include "infrasight.bpf.h"
#include "changed.bpf.h"

#define AT_EMPTY_PATH 0x1000

static inline int changing(struct entry *entry) {
  if (entry->by_path) expect_change(bpf_get_current_pid_tgid());
  entry->file = file_of(entry->by_path ? entry->dirfd : entry->fd);
  entry->mode = (u16)entry->mode; /* the kernel's parameter has 16 bits */
  entry->old_mode = FIELD(u16, FIELD(char *, entry->file, file__f_inode), inode__i_mode) & PERMISSIONS;
  return enter(entry);
}

int enter_chmod(struct sys_enter *call) {
  struct entry entry = {
      .by_path = true, .dirfd = CURRENT_DIRECTORY, .path = pointer(call->args[0]), .mode = call->args[1], .fd = -1};
  return changing(&entry);
}

int enter_fchmod(struct sys_enter *call) {
  struct entry entry = {.dirfd = CURRENT_DIRECTORY, .fd = call->args[0], .mode = call->args[1]};
  return changing(&entry);
}

int enter_fchmodat(struct sys_enter *call) {
  struct entry entry = {
      .by_path = true, .dirfd = call->args[0], .path = pointer(call->args[1]), .mode = call->args[2], .fd = -1};
  return changing(&entry);
}

int enter_fchmodat2(struct sys_enter *call) {
  struct entry entry = {.by_path = true,
                        .dirfd = call->args[0],
                        .path = pointer(call->args[1]),
                        .mode = call->args[2],
                        .at_flags = call->args[3],
                        .fd = -1};
  return changing(&entry);
}

/* The file's path: that of the descriptor if the call was by descriptor, else of the directory, with the string given behind. */
static inline void resolve(struct block *b, struct entry *entry, long result) {
  char *fs = FIELD(char *, bpf_get_current_task(), task_struct__fs), *file = file_of(entry->by_path ? entry->dirfd : entry->fd);
  bool absolute = TEXT_LENGTH(b, path) && *TEXT_START(b, path) == '/', by_path = TEXT_LENGTH(b, path);
  char *path = file + OFFSET_file__f_path;
  if (!file || file != entry->file) path = NULL; /* no such descriptor, or another thread gave it to another file */
  if (path && !by_path)
    SET(b, old_mode, entry->old_mode);
  else
    b->_quality |= FLAG(old_mode_missing);
  if (path && has_no_path(path)) path = NULL;
  if (absolute) path = fs + OFFSET_fs_struct__root;
  if (!absolute && entry->dirfd == CURRENT_DIRECTORY && entry->by_path) path = fs + OFFSET_fs_struct__pwd;
  if (b->_quality & TEXT_MISSING(path) || entry->by_path && !by_path && !(entry->at_flags & AT_EMPTY_PATH)) path = NULL;
  if (path || result >= 0) SET_PATH(b, resolved_path, path);
  if (!by_path || !TEXT_LENGTH(b, resolved_path)) return;
  b->_quality |= TEXT_USER_MEMORY(resolved_path);
  if (absolute && TEXT_LENGTH(b, resolved_path) == 1) TEXT_LENGTH(b, resolved_path) = 0; /* "/" and "/etc" are "/etc" */
  if (!absolute && TEXT_LENGTH(b, resolved_path) > 1) {
    *TEXT_AT(b, resolved_path) = '/';
    TEXT_LENGTH(b, resolved_path)++;
  }
  APPEND_PATH(b, resolved_path, path);
}

int exit_chmod(struct sys_exit *call) {
  u32 tid = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(tid);
  if (b) {
    common(b, entry, call->ret);
    SET(b, mode, entry ? entry->mode : 0);
    SET(b, old_mode, 0);
    SET(b, at_flags, entry ? entry->at_flags : 0);
    SET(b, dirfd, entry ? entry->dirfd : CURRENT_DIRECTORY);
    SET(b, fd, entry ? entry->fd : -1);
    if (!entry || entry->by_path) SET_USER_STRING(b, path, entry ? entry->path : NULL);
    if (!set_changed(b, tid)) {
      if (entry)
        resolve(b, entry, call->ret);
      else
        b->_quality |= TEXT_MISSING(resolved_path) | FLAG(old_mode_missing);
    }
    commit(b);
  }
  forget_change(tid);
  forget(tid);
  return 0;
}
