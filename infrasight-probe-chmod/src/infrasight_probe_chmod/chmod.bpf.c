/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * chmod(2), fchmod(2), fchmodat(2) and fchmodat2(2). For a call by descriptor, the file is the
 * kernel's own, and its old mode is read before the call. For a call by path, a kernel function
 * shows the file (changed.bpf.h). Where no program can attach to that function, or if the call
 * failed before it, the path is the kernel's directory followed by the given string.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(exe, 4096, 64)                                                                              \
  TEXT(path, 4096, 64)                                                                             \
  TEXT(resolved_path, 8192, 64)                                                                    \
  FIXED(u32, mode)                                                                                 \
  FIXED(u32, old_mode)                                                                             \
  FIXED(u32, at_flags)                                                                             \
  FIXED(s32, dirfd)                                                                                \
  FIXED(s32, fd)
#define FLAGS(FLAG) FLAG(old_mode_missing)
#define FILTER_PATH resolved_path

struct entry {
  u64 time;
  const char *path;
  char *file; /* the kernel's struct file of fd or dirfd */
  u32 mode, old_mode, at_flags, by_path;
  int dirfd, fd;
};

#include "infrasight.bpf.h"
#include "changed.bpf.h"

#define AT_EMPTY_PATH 0x1000

static inline int enter_with(struct entry *entry) {
  if (entry->by_path) expect_change(bpf_get_current_pid_tgid());
  entry->file = file_of(entry->by_path ? entry->dirfd : entry->fd);
  entry->mode = (u16)entry->mode; /* the kernel's parameter has 16 bits */
  char *inode = FIELD(char *, entry->file, file__f_inode);
  entry->old_mode = FIELD(u16, inode, inode__i_mode) & PERMISSIONS;
  return enter(entry);
}

int enter_chmod(struct sys_enter *call) {
  struct entry entry = {.by_path = true,
                        .dirfd = CURRENT_DIRECTORY,
                        .path = pointer(call->args[0]),
                        .mode = call->args[1],
                        .fd = -1};
  return enter_with(&entry);
}

int enter_fchmod(struct sys_enter *call) {
  struct entry entry = {.dirfd = CURRENT_DIRECTORY, .fd = call->args[0], .mode = call->args[1]};
  return enter_with(&entry);
}

int enter_fchmodat(struct sys_enter *call) {
  struct entry entry = {.by_path = true,
                        .dirfd = call->args[0],
                        .path = pointer(call->args[1]),
                        .mode = call->args[2],
                        .fd = -1};
  return enter_with(&entry);
}

int enter_fchmodat2(struct sys_enter *call) {
  struct entry entry = {.by_path = true,
                        .dirfd = call->args[0],
                        .path = pointer(call->args[1]),
                        .mode = call->args[2],
                        .at_flags = call->args[3],
                        .fd = -1};
  return enter_with(&entry);
}

/* The `struct path` from which the file's path is resolved: that of the descriptor, of the
 * directory before a relative path, or of the root before an absolute one; NULL if it is not known.
 * Sets old_mode, if a descriptor tells it. */
static inline char *start_of(struct block *b, struct entry *entry, bool has_path,
                             bool is_absolute) {
  char *fs = FIELD(char *, bpf_get_current_task(), task_struct__fs);
  char *file = file_of(entry->by_path ? entry->dirfd : entry->fd);
  bool is_same = file && file == entry->file; /* else another thread replaced the descriptor */
  char *start = is_same ? file + OFFSET_file__f_path : NULL;
  if (start && !has_path)
    SET(b, old_mode, entry->old_mode);
  else
    b->_quality |= FLAG(old_mode_missing);
  if (start && has_no_path(start)) start = NULL;
  if (is_absolute) start = fs + OFFSET_fs_struct__root;
  if (!is_absolute && entry->dirfd == CURRENT_DIRECTORY && entry->by_path)
    start = fs + OFFSET_fs_struct__pwd;
  bool is_empty_path = entry->by_path && !has_path && !(entry->at_flags & AT_EMPTY_PATH);
  if ((b->_quality & TEXT_MISSING(path)) || is_empty_path) start = NULL;
  return start;
}

/* Fills resolved_path: the path of the descriptor, or of the directory followed by the given
 * string. */
static inline void resolve(struct block *b, struct entry *entry, long result) {
  bool has_path = TEXT_LENGTH(b, path);
  bool is_absolute = has_path && *TEXT_START(b, path) == '/';
  char *start = start_of(b, entry, has_path, is_absolute);
  if (start || result >= 0) SET_PATH(b, resolved_path, start);
  if (!has_path || !TEXT_LENGTH(b, resolved_path)) return;
  b->_quality |= TEXT_USER_MEMORY(resolved_path);
  if (is_absolute && TEXT_LENGTH(b, resolved_path) == 1)
    TEXT_LENGTH(b, resolved_path) = 0; /* "/" followed by "/etc" is "/etc" */
  if (!is_absolute && TEXT_LENGTH(b, resolved_path) > 1) {
    *TEXT_AT(b, resolved_path) = '/';
    TEXT_LENGTH(b, resolved_path)++;
  }
  APPEND_PATH(b, resolved_path, path);
}

int exit_chmod(struct sys_exit *call) {
  u32 thread = bpf_get_current_pid_tgid();
  struct block *b = begin();
  if (b) SET_EXE(b); /* see SET_PATH */
  struct entry *entry = entry_of(thread);
  if (b) {
    common(b, entry, call->ret);
    SET(b, mode, entry ? entry->mode : 0);
    SET(b, old_mode, 0);
    SET(b, at_flags, entry ? entry->at_flags : 0);
    SET(b, dirfd, entry ? entry->dirfd : CURRENT_DIRECTORY);
    SET(b, fd, entry ? entry->fd : -1);
    if (!entry || entry->by_path) SET_USER_STRING(b, path, entry ? entry->path : NULL);
    if (!set_changed(b, thread)) {
      if (entry)
        resolve(b, entry, call->ret);
      else
        b->_quality |= TEXT_MISSING(resolved_path) | FLAG(old_mode_missing);
    }
    commit(b);
  }
  forget_change(thread);
  forget(thread);
  return 0;
}
