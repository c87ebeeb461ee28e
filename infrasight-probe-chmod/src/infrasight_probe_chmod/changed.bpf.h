/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file that a call by path changes, from the `struct path` that the kernel has found: where the kernel lets a program hang on
 * its function security_path_chmod(). Such a program may be preempted, so it writes no block: the call's entry makes room under
 * the thread's number, the function's program fills it while the kernel holds the path and the inode's lock, and the call's exit
 * copies it into the row. Who else comes to that function (fchmod) has no room there, and is ignored; of two in one call, the last
 * counts. The probe includes this file behind infrasight.bpf.h.
 */
#define PERMISSIONS 07777
#define CHANGES 1024 /* calls by path that may be under way at once */

/* Whether the file stands in no tree and has a name that is no path: a socket's is "TCP", an event's "[eventfd]". */
static inline bool has_no_path(char *path) {
  char *dentry = FIELD(char *, path, path__dentry);
  char first = 0;
  if (!dentry || FIELD(char *, dentry, dentry__d_parent) != dentry) return false;
  bpf_probe_read_kernel(&first, 1, FIELD(char *, dentry, dentry__d_name__name));
  return (FIELD(u16, FIELD(char *, dentry, dentry__d_inode), inode__i_mode) & 0170000) == 0140000 || first == '[';
}

#ifdef HAVE_path_chmod
struct changed {
  struct walk walk;
  u64 said;
  u32 old_mode, is_known;
};

BPF_F_TABLE("hash", u32, struct changed, changes, CHANGES, BPF_F_NO_PREALLOC);
BPF_ARRAY(nothing_changed, struct changed, 1);

/* Makes room; where there is none, the row is as on a kernel without the function. */
static inline void expect_change(u32 tid) {
  int zero = 0;
  struct changed *nothing = nothing_changed.lookup(&zero);
  struct block *b = this_block();
  if (nothing && changes.update(&tid, nothing) && b) b->_entries_full++;
}

/* int security_path_chmod(const struct path *path, umode_t mode) */
int path_chmod(u64 *arguments) {
  u32 tid = bpf_get_current_pid_tgid();
  struct changed *changed = changes.lookup(&tid);
  if (!changed) return 0;
  char *path = (char *)arguments[0], *inode = FIELD(char *, FIELD(char *, path, path__dentry), dentry__d_inode);
  changed->walk.mount = 0;
  changed->said = has_no_path(path) ? PATH_IS_MISSING : walk_path(&changed->walk, path);
  changed->old_mode = FIELD(u16, inode, inode__i_mode) & PERMISSIONS;
  changed->is_known = true;
  return 0;
}

/* Fills resolved_path and old_mode; false where the kernel did not come to the change, or the call was by descriptor. */
static inline bool set_changed(struct block *b, u32 tid) {
  struct changed *changed = changes.lookup(&tid);
  if (!changed || !changed->is_known) return false;
  SET_WALKED(b, resolved_path, &changed->walk, changed->said);
  SET(b, old_mode, changed->old_mode);
  return true;
}

static inline void forget_change(u32 tid) {
  changes.delete(&tid);
}
#else
static inline void expect_change(u32 tid) {}

static inline bool set_changed(struct block *b, u32 tid) {
  return false;
}

static inline void forget_change(u32 tid) {}
#endif
