/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The executable of the current process. Included by infrasight.bpf.h.
 *
 * A program makes many calls, and its executable's path is the same in each, so a CPU's block keeps the last one that was walked,
 * with what it was walked along: the mount, and each dentry with its name's hash, which the kernel seeds with the parent. An
 * executable that is renamed, or under a folder that is, another one, or another mount gives another number, and is walked.
 * These are loads along the kernel's own types, where a walk is two calls for each component.
 */
#define EXE_BYTES 256 /* a longer path is walked each time, as is one of more parts, or below a mount point that is not `/` */
#define EXE_DEPTH 16
#define EXE_MIX 0x9e3779b97f4a7c15ULL
#define OFFSET_file__dentry (OFFSET_file__f_path + OFFSET_path__dentry)
#define OFFSET_file__mnt (OFFSET_file__f_path + OFFSET_path__mnt)

/* A pointer as a number: the verifier lets nobody compute with the former. */
static inline u64 number_of(struct block *b, u64 pointer) {
  *(volatile u64 *)&b->_exe_number = pointer;
  return *(volatile u64 *)&b->_exe_number;
}

/* Stands for the executable and its place among the folders and mounts; 0 where it cannot be told so. */
static inline u64 exe_place(struct block *b, u64 file) {
  struct walk *walk = walk_of(b);
  u64 dentry = MEMBER(u64, file, file__dentry), mount = MEMBER(u64, file, file__mnt),
      root = MEMBER(u64, mount, vfsmount__mnt_root);
  u64 place = number_of(b, mount), first = place - OFFSET_mount__mnt;
  for (int i = 0; i < EXE_DEPTH && dentry != root; i++) {
    place = (place ^ number_of(b, dentry) ^ (u64)MEMBER(u32, dentry, dentry__d_name__hash) << 32) * EXE_MIX;
    dentry = MEMBER(u64, dentry, dentry__d_parent);
  }
  if (dentry != root) return 0;
  walk->mount = first;
  at_mount(walk);
  if (walk->outer != walk->mount) { /* as in a container: its root hangs on the root of what was there before */
    u64 mountpoint = walk->mountpoint;
    walk->mount = walk->outer;
    at_mount(walk);
    if (walk->root != mountpoint || walk->outer != walk->mount) return 0;
  }
  return place;
}

/* Keeps the path that has just been walked, unless something was renamed meanwhile. */
#define KEEP_EXE(b, file, place)                                                                                               \
  ({                                                                                                                           \
    u64 kept_ = TEXT_LENGTH(b, exe);                                                                                           \
    (b)->_exe_place = kept_ && kept_ < EXE_BYTES && exe_place(b, file) == place ? place : 0;                                   \
    (b)->_exe_length = kept_;                                                                                                  \
    bpf_probe_read_kernel((b)->_exe, kept_ & (EXE_BYTES - 1), TEXT_START(b, exe));                                             \
  })

/* For a program that has many states already; the verifier goes through fewer instructions than for the other. */
#define WALK_EXE(b) SET_PATH(b, exe, (char *)EXE_FILE + OFFSET_file__f_path)
#define EXE_FILE MEMBER(u64, MEMBER(u64, CURRENT_TASK, task_struct__mm), mm_struct__exe_file)

#define SET_EXE(b)                                                                                                             \
  ({                                                                                                                           \
    u64 file_ = EXE_FILE, place_ = exe_place(b, file_);                                                                        \
    if (place_ && place_ == (b)->_exe_place) {                                                                                 \
      u64 length_ = (b)->_exe_length & (EXE_BYTES - 1);                                                                        \
      bpf_probe_read_kernel(TEXT_START(b, exe), length_, (b)->_exe);                                                           \
      TEXT_LENGTH(b, exe) = length_;                                                                                           \
    } else {                                                                                                                   \
      SET_PATH(b, exe, (char *)file_ + OFFSET_file__f_path);                                                                   \
      KEEP_EXE(b, file_, place_);                                                                                              \
    }                                                                                                                          \
  })
