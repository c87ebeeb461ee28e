/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Paths as the kernel has them. Included by infrasight.bpf.h.
 */
/* Writes the absolute path of the kernel's `struct path`, as its mount namespace sees it, into the block's scratch, from the
 * end on, and leaves in `_at` where it begins. False where the path has more than PATH_DEPTH parts or PATH_BYTES. */
static inline bool walk_path(struct block *b, char *path) {
  b->_at = PATH_BYTES;
  b->_dentry = FIELD(u64, path, path__dentry);
  b->_mount = FIELD(u64, path, path__mnt);
  b->_root = FIELD(u64, b->_mount, vfsmount__mnt_root);
  for (int i = 0; i < PATH_DEPTH; i++) {
    if (b->_dentry == b->_root) { /* the root of a mount: go on at its mount point */
      u64 inner = b->_mount - OFFSET_mount__mnt, outer = FIELD(u64, inner, mount__mnt_parent);
      if (outer == inner) return true;
      b->_dentry = FIELD(u64, inner, mount__mnt_mountpoint);
      b->_mount = outer + OFFSET_mount__mnt;
      b->_root = FIELD(u64, b->_mount, vfsmount__mnt_root);
      continue;
    }
    u64 parent = FIELD(u64, b->_dentry, dentry__d_parent), length = FIELD(u32, b->_dentry, dentry__d_name__len) & 255;
    if (length + 1 > b->_at) return false;
    b->_at -= length + 1;
    u64 at = b->_at & (PATH_BYTES - 1);
    b->_scratch[at] = '/';
    OPAQUE(length); /* 6.12 loses the bound of a number when one that was computed from it is compared */
    bpf_probe_read_kernel(&b->_scratch[at + 1], length & 255, FIELD(void *, b->_dentry, dentry__d_name__name));
    if (parent == b->_dentry) return true; /* in no tree: a memfd, a file that was never linked */
    b->_dentry = parent;
  }
  return false;
}

/* The path of a kernel's `struct path`, from its dentries and mounts: across bind mounts, renames and chroots. */
#define SET_PATH(b, name, path)                                                                                                \
  ({                                                                                                                           \
    char *path_ = (char *)(path);                                                                                              \
    if (!FIELD(u64, path_, path__dentry))                                                                                      \
      (b)->_quality |= TEXT_MISSING(name);                                                                                     \
    else {                                                                                                                     \
      if (!walk_path(b, path_)) (b)->_quality |= TEXT_CUT(name);                                                               \
      if ((b)->_at == PATH_BYTES) (b)->_scratch[--(b)->_at & (PATH_BYTES - 1)] = '/';                                          \
      u64 length_ = PATH_BYTES - (b)->_at;                                                                                     \
      OPAQUE(length_);                                                                                                         \
      if (length_ <= PATH_BYTES) {                                                                                             \
        bpf_probe_read_kernel(TEXT_AT(b, name), length_, &(b)->_scratch[(b)->_at & (PATH_BYTES - 1)]);                         \
        TEXT_LENGTH(b, name) = length_;                                                                                        \
      }                                                                                                                        \
    }                                                                                                                          \
  })
