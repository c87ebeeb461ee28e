/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Paths, from the kernel's dentries and mounts. Included by infrasight.bpf.h.
 */

/* The file types in an inode's mode, as far as they are needed here. */
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* Results of a walk, equal to the bits of TEXT_CUT and TEXT_MISSING. */
#define PATH_IS_CUT 1     /* the path has more than PATH_DEPTH parts or PATH_BYTES bytes */
#define PATH_IS_MISSING 2 /* the file has no name: a pipe, a namespace */

/* The walk reads the members of a struct that it needs at once, from the first to the last of them:
 * the call costs time, not the bytes. */
#define LEAST(one, other) ((one) < (other) ? (one) : (other))
#define MOST(one, other) ((one) > (other) ? (one) : (other))
#define OFFSET_mount__root (OFFSET_mount__mnt + OFFSET_vfsmount__mnt_root)
#define PATH_FROM LEAST(OFFSET_path__dentry, OFFSET_path__mnt)
#define PATH_TO MOST(OFFSET_path__dentry, OFFSET_path__mnt)
#define MOUNT_FROM                                                                                 \
  LEAST(LEAST(OFFSET_mount__mnt_parent, OFFSET_mount__mnt_mountpoint), OFFSET_mount__root)
#define MOUNT_TO                                                                                   \
  MOST(MOST(OFFSET_mount__mnt_parent, OFFSET_mount__mnt_mountpoint), OFFSET_mount__root)
#define NAME_FROM LEAST(OFFSET_dentry__d_name__len, OFFSET_dentry__d_name__name)
#define NAME_TO MOST(OFFSET_dentry__d_name__len, OFFSET_dentry__d_name__name)
#define DENTRY_FROM LEAST(LEAST(OFFSET_dentry__d_parent, OFFSET_dentry__d_hash__pprev), NAME_FROM)
#define DENTRY_TO MOST(MOST(OFFSET_dentry__d_parent, OFFSET_dentry__d_hash__pprev), NAME_TO)
_Static_assert(MOUNT_TO - MOUNT_FROM <= NEAR_BYTES - 8, "struct mount is read at once");
_Static_assert(DENTRY_TO - DENTRY_FROM <= NEAR_BYTES - 8, "struct dentry is read at once");
#define READ_NEAR(walk, object, STRUCT)                                                            \
  bpf_probe_read_kernel((walk)->near, STRUCT##_TO - STRUCT##_FROM + 8,                             \
                        (char *)(object) + STRUCT##_FROM)
#define NEAR(type, walk, STRUCT, struct_member)                                                    \
  (*(type *)((char *)(walk)->near + OFFSET_##struct_member - STRUCT##_FROM))

static inline struct walk *walk_of(struct block *b) {
  return (struct walk *)b->_walk;
}

/* Reads where the walk's mount is mounted, and its root. */
static inline void read_mount(struct walk *walk) {
  READ_NEAR(walk, walk->mount, MOUNT);
  walk->root = NEAR(u64, walk, MOUNT, mount__root);
  walk->outer = NEAR(u64, walk, MOUNT, mount__mnt_parent);
  walk->mountpoint = NEAR(u64, walk, MOUNT, mount__mnt_mountpoint);
}

/* Whether the file has lost its name, or never had one (O_TMPFILE). A pseudo file, which is in no
 * tree, is not deleted. */
static inline bool dentry_is_deleted(char *dentry) {
  return !FIELD(u64, dentry, dentry__d_hash__pprev) &&
         FIELD(char *, dentry, dentry__d_parent) != dentry;
}

/* Writes the absolute path of a kernel's `struct path`, as its mount namespace sees it, to the
 * walk's scratch, from the end backwards, and sets `at` to its beginning. Returns 0, PATH_IS_CUT or
 * PATH_IS_MISSING. */
static inline u64 walk_path(struct walk *walk, char *path) {
  walk->at = PATH_BYTES;
  walk->is_deleted = false;
  READ_NEAR(walk, path, PATH);
  walk->dentry = NEAR(u64, walk, PATH, path__dentry);
  if (!walk->dentry) return PATH_IS_MISSING;
  u64 mount = NEAR(u64, walk, PATH, path__mnt) - OFFSET_mount__mnt;
  if (mount != walk->mount) { /* an earlier walk for this event may have ended there */
    walk->mount = mount;
    read_mount(walk);
  }
  walk->is_deleted = walk->dentry == walk->root && dentry_is_deleted((char *)walk->dentry);
  for (int i = 0; i < PATH_DEPTH; i++) {
    if (walk->dentry == walk->root) { /* the root of a mount: continue at its mount point */
      if (walk->outer == walk->mount) return 0;
      walk->dentry = walk->mountpoint;
      walk->mount = walk->outer;
      read_mount(walk);
      continue;
    }
    READ_NEAR(walk, walk->dentry, DENTRY);
    u64 parent = NEAR(u64, walk, DENTRY, dentry__d_parent);
    u64 length = NEAR(u32, walk, DENTRY, dentry__d_name__len) & 255;
    if (i == 0)
      walk->is_deleted = !NEAR(u64, walk, DENTRY, dentry__d_hash__pprev) && parent != walk->dentry;
    if (length + 1 > walk->at) return PATH_IS_CUT;
    walk->at -= length + 1;
    u64 at = walk->at & (PATH_BYTES - 1);
    walk->scratch[at] = '/';
    OPAQUE(length); /* 6.12 loses a number's bound when a number computed from it is compared */
    bpf_probe_read_kernel(&walk->scratch[at + 1], length & 255,
                          NEAR(void *, walk, DENTRY, dentry__d_name__name));
    if (parent == walk->dentry) {
      /* In no tree: a memfd, or a file that was never linked. Files without a name are called "" or
       * "/". */
      bool is_nameless = length == 0 || walk->scratch[(at + 1) & (PATH_BYTES - 1)] == '/';
      return is_nameless ? PATH_IS_MISSING : 0;
    }
    walk->dentry = parent;
  }
  return PATH_IS_CUT;
}

/* Fills a TEXT column with the path of a walk. `outcome` is the result of walk_path(). */
#define SET_WALKED(b, name, walked, outcome)                                                       \
  ({                                                                                               \
    struct walk *walk_ = (walked);                                                                 \
    u64 outcome_ = (outcome);                                                                      \
    if (outcome_) (b)->_quality |= TEXT_FLAGS(name, outcome_);                                     \
    if (outcome_ != PATH_IS_MISSING) {                                                             \
      if (walk_->at == PATH_BYTES) walk_->scratch[--walk_->at & (PATH_BYTES - 1)] = '/';           \
      u64 length_ = PATH_BYTES - walk_->at;                                                        \
      OPAQUE(length_);                                                                             \
      if (length_ <= PATH_BYTES) {                                                                 \
        bpf_probe_read_kernel(TEXT_AT(b, name), length_,                                           \
                              &walk_->scratch[walk_->at & (PATH_BYTES - 1)]);                      \
        TEXT_LENGTH(b, name) = length_;                                                            \
      }                                                                                            \
    }                                                                                              \
  })

/* Fills a TEXT column with the path of a kernel's `struct path`, across bind mounts, renames and
 * chroots. The verifier goes through the rounds of the walk once for each state that leads there,
 * which costs 40,000 instructions each time: walk right after begin(), before a lookup that may
 * return NULL. */
#define SET_PATH(b, name, path)                                                                    \
  ({                                                                                               \
    char *path_ = (char *)(path);                                                                  \
    SET_WALKED(b, name, walk_of(b), walk_path(walk_of(b), path_));                                 \
  })

/* The kernel's `struct file` of a descriptor of the current task, or NULL. */
static inline char *file_of(int fd) {
  u64 files = MEMBER(u64, CURRENT_TASK, task_struct__files);
  u64 table = MEMBER(u64, files, files_struct__fdt);
  char **array = (char **)MEMBER(u64, table, fdtable__fd);
  char *file = NULL;
  if ((u32)fd < MEMBER(u32, table, fdtable__max_fds))
    bpf_probe_read_kernel(&file, sizeof(file), array + (u32)fd);
  return file;
}

/* Whether the file of the last walk is deleted. */
static inline bool was_deleted(struct block *b) {
  return walk_of(b)->is_deleted;
}
