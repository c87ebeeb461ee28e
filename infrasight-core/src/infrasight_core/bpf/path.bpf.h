/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Paths as the kernel has them. Included by infrasight.bpf.h.
 */
/* Writes the absolute path of the kernel's `struct path`, as its mount namespace sees it, into the walk's scratch, from the
 * end on, and leaves in `at` where it begins. Returns what there is to say of it: PATH_IS_CUT where it has more than PATH_DEPTH
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
#define READ_NEAR(walk, object, STRUCT)                                                                                        \
  bpf_probe_read_kernel((walk)->near, STRUCT##_TO - STRUCT##_FROM + 8, (char *)(object) + STRUCT##_FROM)
#define NEAR(type, walk, STRUCT, struct_member) (*(type *)((char *)(walk)->near + OFFSET_##struct_member - STRUCT##_FROM))

static inline struct walk *walk_of(struct block *b) {
  return (struct walk *)b->_walk;
}

/* Reads what the walk wants of the mount: where it hangs, and its root. */
static inline void at_mount(struct walk *walk) {
  READ_NEAR(walk, walk->mount, MOUNT);
  walk->root = NEAR(u64, walk, MOUNT, mount__root);
  walk->outer = NEAR(u64, walk, MOUNT, mount__mnt_parent);
  walk->mountpoint = NEAR(u64, walk, MOUNT, mount__mnt_mountpoint);
}

/* Whether it has no name any more, or never had one (O_TMPFILE); a pseudo file, which stands in no tree, is not deleted. */
static inline bool dentry_is_deleted(char *dentry) {
  return !FIELD(u64, dentry, dentry__d_hash__pprev) && FIELD(char *, dentry, dentry__d_parent) != dentry;
}

static inline u64 walk_path(struct walk *walk, char *path) {
  walk->at = PATH_BYTES;
  walk->is_deleted = false;
  READ_NEAR(walk, path, PATH);
  walk->dentry = NEAR(u64, walk, PATH, path__dentry);
  if (!walk->dentry) return PATH_IS_MISSING;
  u64 mount = NEAR(u64, walk, PATH, path__mnt) - OFFSET_mount__mnt;
  if (mount != walk->mount) { /* the last walk of this event may have ended there */
    walk->mount = mount;
    at_mount(walk);
  }
  walk->is_deleted = walk->dentry == walk->root && dentry_is_deleted((char *)walk->dentry);
  for (int i = 0; i < PATH_DEPTH; i++) {
    if (walk->dentry == walk->root) { /* the root of a mount: go on at its mount point */
      if (walk->outer == walk->mount) return 0;
      walk->dentry = walk->mountpoint;
      walk->mount = walk->outer;
      at_mount(walk);
      continue;
    }
    READ_NEAR(walk, walk->dentry, DENTRY);
    u64 parent = NEAR(u64, walk, DENTRY, dentry__d_parent), length = NEAR(u32, walk, DENTRY, dentry__d_name__len) & 255;
    if (i == 0) walk->is_deleted = !NEAR(u64, walk, DENTRY, dentry__d_hash__pprev) && parent != walk->dentry;
    if (length + 1 > walk->at) return PATH_IS_CUT;
    walk->at -= length + 1;
    u64 at = walk->at & (PATH_BYTES - 1);
    walk->scratch[at] = '/';
    OPAQUE(length); /* 6.12 loses the bound of a number when one that was computed from it is compared */
    bpf_probe_read_kernel(&walk->scratch[at + 1], length & 255, NEAR(void *, walk, DENTRY, dentry__d_name__name));
    if (parent == walk->dentry) /* in no tree: a memfd, a file that was never linked; nameless ones are called "" or "/" */
      return length == 0 || walk->scratch[(at + 1) & (PATH_BYTES - 1)] == '/' ? PATH_IS_MISSING : 0;
    walk->dentry = parent;
  }
  return PATH_IS_CUT;
}

/* Copies the path of a walk, of which walk_path() said so. */
#define SET_WALKED(b, name, from, said)                                                                                        \
  ({                                                                                                                           \
    struct walk *walk_ = (from);                                                                                               \
    u64 said_ = (said);                                                                                                        \
    if (said_) (b)->_quality |= TEXT_FLAGS(name, said_);                                                                       \
    if (said_ != PATH_IS_MISSING) {                                                                                            \
      if (walk_->at == PATH_BYTES) walk_->scratch[--walk_->at & (PATH_BYTES - 1)] = '/';                                       \
      u64 length_ = PATH_BYTES - walk_->at;                                                                                    \
      OPAQUE(length_);                                                                                                         \
      if (length_ <= PATH_BYTES) {                                                                                             \
        bpf_probe_read_kernel(TEXT_AT(b, name), length_, &walk_->scratch[walk_->at & (PATH_BYTES - 1)]);                       \
        TEXT_LENGTH(b, name) = length_;                                                                                        \
      }                                                                                                                        \
    }                                                                                                                          \
  })

/* The path of a kernel's `struct path`, from its dentries and mounts: across bind mounts, renames and chroots. The verifier goes
 * through the walk's rounds once for each state that leads there, 40,000 instructions a time: walk right behind begin(), before
 * a lookup that may find nothing. */
#define SET_PATH(b, name, path)                                                                                                \
  ({                                                                                                                           \
    char *path_ = (char *)(path);                                                                                              \
    SET_WALKED(b, name, walk_of(b), walk_path(walk_of(b), path_));                                                             \
  })

/* The kernel's `struct file` behind a descriptor of the current task; NULL where there is none. */
static inline char *file_of(int fd) {
  u64 files = MEMBER(u64, CURRENT_TASK, task_struct__files), fdt = MEMBER(u64, files, files_struct__fdt);
  char *file = NULL, **array = (char **)MEMBER(u64, fdt, fdtable__fd);
  if ((u32)fd < MEMBER(u32, fdt, fdtable__max_fds)) bpf_probe_read_kernel(&file, sizeof(file), array + (u32)fd);
  return file;
}

/* Whether the file whose path was walked last is deleted. */
static inline bool was_deleted(struct block *b) {
  return walk_of(b)->is_deleted;
}
