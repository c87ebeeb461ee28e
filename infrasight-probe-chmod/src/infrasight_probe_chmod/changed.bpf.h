/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file that a call by path changes, from the `struct path` that the kernel has found, where the
 * kernel lets a program attach to its function security_path_chmod(). Included by chmod.bpf.c after
 * infrasight.bpf.h.
 *
 * The program may be preempted, so it must not write to a block. The call's entry reserves room
 * under the thread's id, the program fills it while the kernel holds the path and the inode's lock,
 * and the call's exit copies it into the row. Other callers of that function (fchmod) have no room
 * there and are ignored. If a call changes two files, the last one counts.
 */
#define PERMISSIONS 07777
#define CHANGES 1024 /* calls by path that may be in progress at once */

/* Whether the file is in no tree and has a name that is no path: a socket's name is "TCP", an
 * event's "[eventfd]". */
static inline bool has_no_path(char *file_path) {
  char *dentry = FIELD(char *, file_path, path__dentry);
  char first = 0;
  if (!dentry || FIELD(char *, dentry, dentry__d_parent) != dentry) return false;
  bpf_probe_read_kernel(&first, 1, FIELD(char *, dentry, dentry__d_name__name));
  u16 file_mode = FIELD(u16, FIELD(char *, dentry, dentry__d_inode), inode__i_mode);
  return (file_mode & S_IFMT) == S_IFSOCK || first == '[';
}

#ifdef HAVE_path_chmod
struct changed {
  struct walk walk;
  u64 outcome; /* of the walk */
  u32 old_mode, is_known;
};

BPF_F_TABLE("hash", u32, struct changed, changes, CHANGES, BPF_F_NO_PREALLOC);
BPF_ARRAY(empty_change, struct changed, 1);

/* Reserves room for a change. Without it, the row is as on a kernel without the function. */
static inline void expect_change(u32 thread) {
  int zero = 0;
  struct changed *empty = empty_change.lookup(&zero);
  struct block *b = this_block();
  if (empty && changes.update(&thread, empty) && b) b->_entries_full++;
}

/* int security_path_chmod(const struct path *path, umode_t mode) */
int path_chmod(u64 *arguments) {
  u32 thread = bpf_get_current_pid_tgid();
  struct changed *changed = changes.lookup(&thread);
  if (!changed) return 0;
  char *file_path = (char *)arguments[0];
  char *inode = FIELD(char *, FIELD(char *, file_path, path__dentry), dentry__d_inode);
  changed->walk.mount = 0;
  changed->outcome =
      has_no_path(file_path) ? PATH_IS_MISSING : walk_path(&changed->walk, file_path);
  changed->old_mode = FIELD(u16, inode, inode__i_mode) & PERMISSIONS;
  changed->is_known = true;
  return 0;
}

/* Fills resolved_path and old_mode. Returns false if the kernel did not reach the change, or if the
 * call was by descriptor. */
static inline bool set_changed(struct block *b, u32 thread) {
  struct changed *changed = changes.lookup(&thread);
  if (!changed || !changed->is_known) return false;
  SET_WALKED(b, resolved_path, &changed->walk, changed->outcome);
  SET(b, old_mode, changed->old_mode);
  return true;
}

static inline void forget_change(u32 thread) {
  changes.delete(&thread);
}
#else
static inline void expect_change(u32 thread) {}

static inline bool set_changed(struct block *b, u32 thread) {
  return false;
}

static inline void forget_change(u32 thread) {}
#endif
