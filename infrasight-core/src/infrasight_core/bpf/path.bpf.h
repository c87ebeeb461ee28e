/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Paths as the kernel has them. Included by infrasight.bpf.h.
 */
/* Writes the absolute path of the kernel's `struct path`, as its mount namespace sees it, into the block's scratch, from the
 * end on, and leaves in `_at` where it begins. Returns what there is to say of it: PATH_IS_CUT where it has more than PATH_DEPTH
 * parts or PATH_BYTES, PATH_IS_MISSING where the file has no name (a pipe, a namespace). */
#define PATH_IS_CUT 1 /* as in TEXT_CUT and TEXT_MISSING */
#define PATH_IS_MISSING 2

/* Members that the walk wants of one struct are read at once, from the first to the last of them: the call costs, not the bytes. */
#define LEAST(one, other) ((one) < (other) ? (one) : (other))
#define MOST(one, other) ((one) > (other) ? (one) : (other))
#define OFFSET_mount__root (OFFSET_mount__mnt + OFFSET_vfsmount__mnt_root)
#define PATH_FROM LEAST(OFFSET_path__dentry, OFFSET_path__mnt)
#define PATH_TO MOST(OFFSET_path__dentry, OFFSET_path__mnt)
#define MOUNT_FROM LEAST(LEAST(OFFSET_mount__mnt_parent, OFFSET_mount__mnt_mountpoint), OFFSET_mount__root)
#define MOUNT_TO MOST(MOST(OFFSET_mount__mnt_parent, OFFSET_mount__mnt_mountpoint), OFFSET_mount__root)
#define NAME_FROM LEAST(OFFSET_dentry__d_name__len, OFFSET_dentry__d_name__name)
#define NAME_TO MOST(OFFSET_dentry__d_name__len, OFFSET_dentry__d_name__name)
#define DENTRY_FROM LEAST(LEAST(OFFSET_dentry__d_parent, OFFSET_dentry__d_hash__pprev), NAME_FROM)
#define DENTRY_TO MOST(MOST(OFFSET_dentry__d_parent, OFFSET_dentry__d_hash__pprev), NAME_TO)
_Static_assert(LEAST(NEAR_BYTES - 8, MOUNT_TO - MOUNT_FROM) == MOUNT_TO - MOUNT_FROM, "struct mount is read at once");
_Static_assert(LEAST(NEAR_BYTES - 8, DENTRY_TO - DENTRY_FROM) == DENTRY_TO - DENTRY_FROM, "struct dentry is read at once");
#define READ_NEAR(b, object, STRUCT)                                                                                           \
  bpf_probe_read_kernel((b)->_near, STRUCT##_TO - STRUCT##_FROM + 8, (char *)(object) + STRUCT##_FROM)
#define NEAR(type, b, STRUCT, struct_member) (*(type *)((char *)(b)->_near + OFFSET_##struct_member - STRUCT##_FROM))

/* Reads what the walk wants of the mount: where it hangs, and its root. */
static inline void at_mount(struct block *b) {
  READ_NEAR(b, b->_mount, MOUNT);
  b->_root = NEAR(u64, b, MOUNT, mount__root);
  b->_outer = NEAR(u64, b, MOUNT, mount__mnt_parent);
  b->_mountpoint = NEAR(u64, b, MOUNT, mount__mnt_mountpoint);
}

static inline u64 walk_path(struct block *b, char *path) {
  b->_at = PATH_BYTES;
  READ_NEAR(b, path, PATH);
  b->_dentry = NEAR(u64, b, PATH, path__dentry);
  if (!b->_dentry) return PATH_IS_MISSING;
  b->_mount = NEAR(u64, b, PATH, path__mnt) - OFFSET_mount__mnt;
  at_mount(b);
  for (int i = 0; i < PATH_DEPTH; i++) {
    if (b->_dentry == b->_root) { /* the root of a mount: go on at its mount point */
      if (b->_outer == b->_mount) return 0;
      b->_dentry = b->_mountpoint;
      b->_mount = b->_outer;
      at_mount(b);
      continue;
    }
    READ_NEAR(b, b->_dentry, DENTRY);
    u64 parent = NEAR(u64, b, DENTRY, dentry__d_parent), length = NEAR(u32, b, DENTRY, dentry__d_name__len) & 255;
    if (length + 1 > b->_at) return PATH_IS_CUT;
    b->_at -= length + 1;
    u64 at = b->_at & (PATH_BYTES - 1);
    b->_scratch[at] = '/';
    OPAQUE(length); /* 6.12 loses the bound of a number when one that was computed from it is compared */
    bpf_probe_read_kernel(&b->_scratch[at + 1], length & 255, NEAR(void *, b, DENTRY, dentry__d_name__name));
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
    u64 walked_ = walk_path(b, path_);                                                                                         \
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
  u64 files = MEMBER(u64, CURRENT_TASK, task_struct__files), fdt = MEMBER(u64, files, files_struct__fdt);
  char *file = NULL, **array = (char **)MEMBER(u64, fdt, fdtable__fd);
  if ((u32)fd < MEMBER(u32, fdt, fdtable__max_fds)) bpf_probe_read_kernel(&file, sizeof(file), array + (u32)fd);
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
    u64 mm_ = MEMBER(u64, CURRENT_TASK, task_struct__mm);                                                                      \
    SET_PATH(b, exe, (char *)MEMBER(u64, mm_, mm_struct__exe_file) + OFFSET_file__f_path);                                     \
  })
