/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Paths as the kernel has them. Included by infrasight.bpf.h.
 */
/* Writes the absolute path of the kernel's `struct path`, as its mount namespace sees it, into the block's scratch, from the
 * end on, and leaves in `_at` where it begins. Returns what there is to say of it: PATH_IS_CUT where it has more than PATH_DEPTH
 * parts or PATH_BYTES, PATH_IS_MISSING where the file has no name (a pipe, a namespace). */
#define PATH_IS_CUT 1 /* as in TEXT_CUT and TEXT_MISSING */
#define PATH_IS_MISSING 2
static inline u64 walk_path(struct block *b, char *path) {
  b->_at = PATH_BYTES;
  b->_dentry = FIELD(u64, path, path__dentry);
  b->_mount = FIELD(u64, path, path__mnt);
  b->_root = FIELD(u64, b->_mount, vfsmount__mnt_root);
  for (int i = 0; i < PATH_DEPTH; i++) {
    if (b->_dentry == b->_root) { /* the root of a mount: go on at its mount point */
      u64 inner = b->_mount - OFFSET_mount__mnt, outer = FIELD(u64, inner, mount__mnt_parent);
      if (outer == inner) return 0;
      b->_dentry = FIELD(u64, inner, mount__mnt_mountpoint);
      b->_mount = outer + OFFSET_mount__mnt;
      b->_root = FIELD(u64, b->_mount, vfsmount__mnt_root);
      continue;
    }
    u64 parent = FIELD(u64, b->_dentry, dentry__d_parent), length = FIELD(u32, b->_dentry, dentry__d_name__len) & 255;
    if (length + 1 > b->_at) return PATH_IS_CUT;
    b->_at -= length + 1;
    u64 at = b->_at & (PATH_BYTES - 1);
    b->_scratch[at] = '/';
    OPAQUE(length); /* 6.12 loses the bound of a number when one that was computed from it is compared */
    bpf_probe_read_kernel(&b->_scratch[at + 1], length & 255, FIELD(void *, b->_dentry, dentry__d_name__name));
    if (parent == b->_dentry) /* in no tree: a memfd, a file that was never linked; nameless ones are called "" or "/" */
      return length == 0 || b->_scratch[(at + 1) & (PATH_BYTES - 1)] == '/' ? PATH_IS_MISSING : 0;
    b->_dentry = parent;
  }
  return PATH_IS_CUT;
}

/* The path of a kernel's `struct path`, from its dentries and mounts: across bind mounts, renames and chroots. */
#define SET_PATH(b, name, path)                                                                                                \
  ({                                                                                                                           \
    char *path_ = (char *)(path);                                                                                              \
    u64 walked_ = FIELD(u64, path_, path__dentry) ? walk_path(b, path_) : PATH_IS_MISSING;                                     \
    if (walked_) (b)->_quality |= TEXT_FLAGS(name, walked_);                                                                   \
    if (walked_ != PATH_IS_MISSING) {                                                                                          \
      if ((b)->_at == PATH_BYTES) (b)->_scratch[--(b)->_at & (PATH_BYTES - 1)] = '/';                                          \
      u64 length_ = PATH_BYTES - (b)->_at;                                                                                     \
      OPAQUE(length_);                                                                                                         \
      if (length_ <= PATH_BYTES) {                                                                                             \
        bpf_probe_read_kernel(TEXT_AT(b, name), length_, &(b)->_scratch[(b)->_at & (PATH_BYTES - 1)]);                         \
        TEXT_LENGTH(b, name) = length_;                                                                                        \
      }                                                                                                                        \
    }                                                                                                                          \
  })

/* The kernel's `struct file` behind a descriptor of the current task; NULL where there is none. */
static inline char *file_of(int fd) {
  char *files = FIELD(char *, bpf_get_current_task(), task_struct__files), *fdt = FIELD(char *, files, files_struct__fdt);
  char *file = NULL, **array = FIELD(char **, fdt, fdtable__fd);
  if ((u32)fd < FIELD(u32, fdt, fdtable__max_fds)) bpf_probe_read_kernel(&file, sizeof(file), array + (u32)fd);
  return file;
}

/* Whether the file has no name any more, or never had one (O_TMPFILE); a pseudo file, which stands in no tree, is not deleted. */
static inline bool is_deleted(char *file) {
  char *dentry = FIELD(char *, file + OFFSET_file__f_path, path__dentry);
  return !FIELD(u64, dentry, dentry__d_hash__pprev) && FIELD(char *, dentry, dentry__d_parent) != dentry;
}

/* The executable of the current process. */
#define SET_EXE(b)                                                                                                             \
  ({                                                                                                                           \
    char *mm_ = FIELD(char *, bpf_get_current_task(), task_struct__mm);                                                        \
    SET_PATH(b, exe, FIELD(char *, mm_, mm_struct__exe_file) + OFFSET_file__f_path);                                           \
  })
