/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The path of the current process's executable. Included by infrasight.bpf.h.
 *
 * A program makes many calls, and its executable's path is the same in all of them. A CPU's block
 * therefore caches the last path that was walked, with a number that stands for the way it was
 * walked: the mount, and each dentry with the hash of its name, which the kernel seeds with the
 * parent. Another executable, another mount, or a rename of the executable or of a directory above
 * it changes the number, and the path is walked again. Computing the number takes loads along the
 * kernel's own types, where a walk takes two helper calls for each component.
 *
 * A path of EXE_CACHE_BYTES or more is walked each time, and so is one with more than EXE_DEPTH
 * components or below a mount point other than `/`.
 */
#define EXE_DEPTH 16
#define EXE_MIX 0x9e3779b97f4a7c15ULL
#define OFFSET_file__dentry (OFFSET_file__f_path + OFFSET_path__dentry)
#define OFFSET_file__mnt (OFFSET_file__f_path + OFFSET_path__mnt)
#define EXE_FILE MEMBER(u64, MEMBER(u64, CURRENT_TASK, task_struct__mm), mm_struct__exe_file)

/* A pointer as a number, because the verifier forbids arithmetic with pointers. */
static inline u64 number_of(struct block *b, u64 pointer) {
  *(volatile u64 *)&b->_exe_number = pointer;
  return *(volatile u64 *)&b->_exe_number;
}

/* The number that stands for the executable and its place among directories and mounts; 0 if the
 * path is not cached. */
static inline u64 exe_place(struct block *b, u64 file) {
  struct walk *walk = walk_of(b);
  u64 dentry = MEMBER(u64, file, file__dentry);
  u64 mount = MEMBER(u64, file, file__mnt);
  u64 root = MEMBER(u64, mount, vfsmount__mnt_root);
  u64 place = number_of(b, mount);
  u64 first_mount = place - OFFSET_mount__mnt;
  for (int i = 0; i < EXE_DEPTH && dentry != root; i++) {
    u64 hash = MEMBER(u32, dentry, dentry__d_name__hash);
    place = (place ^ number_of(b, dentry) ^ hash << 32) * EXE_MIX;
    dentry = MEMBER(u64, dentry, dentry__d_parent);
  }
  if (dentry != root) return 0;
  walk->mount = first_mount;
  read_mount(walk);
  if (walk->outer != walk->mount) { /* as in a container, whose root is mounted on an older root */
    u64 mountpoint = walk->mountpoint;
    walk->mount = walk->outer;
    read_mount(walk);
    if (walk->root != mountpoint || walk->outer != walk->mount) return 0;
  }
  return place;
}

/* Caches the path that has just been walked, unless something was renamed meanwhile. */
#define CACHE_EXE(b, file, place)                                                                  \
  ({                                                                                               \
    u64 length_ = TEXT_LENGTH(b, exe);                                                             \
    bool fits_ = length_ && length_ < EXE_CACHE_BYTES;                                             \
    (b)->_exe_place = fits_ && exe_place(b, file) == (place) ? (place) : 0;                        \
    (b)->_exe_length = length_;                                                                    \
    bpf_probe_read_kernel((b)->_exe, length_ & (EXE_CACHE_BYTES - 1), TEXT_START(b, exe));         \
  })

/* Fills the column `exe` without the cache. For a program that already has many states: the
 * verifier goes through fewer instructions than for SET_EXE. */
#define WALK_EXE(b) SET_PATH(b, exe, (char *)EXE_FILE + OFFSET_file__f_path)

/* Fills the column `exe`, from the cache if it has the path. */
#define SET_EXE(b)                                                                                 \
  ({                                                                                               \
    u64 file_ = EXE_FILE;                                                                          \
    u64 place_ = exe_place(b, file_);                                                              \
    if (place_ && place_ == (b)->_exe_place) {                                                     \
      u64 cached_ = (b)->_exe_length & (EXE_CACHE_BYTES - 1);                                      \
      bpf_probe_read_kernel(TEXT_START(b, exe), cached_, (b)->_exe);                               \
      TEXT_LENGTH(b, exe) = cached_;                                                               \
    } else {                                                                                       \
      SET_PATH(b, exe, (char *)file_ + OFFSET_file__f_path);                                       \
      CACHE_EXE(b, file_, place_);                                                                 \
    }                                                                                              \
  })
