/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Cgroups as they come and go: a tracker's program, whose rows are no events, but what the enricher `containers` knows by the
 * time that it sees an event of a task in such a cgroup. A cgroup is announced before any task can be in it.
 */
#define COLUMNS(FIXED, CHARS, TEXT) FIXED(u64, key) FIXED(u8, gone) TEXT(path, 1024, 256)

struct entry { /* nothing is kept: these are no calls */
  u64 time;
};

#include "infrasight.bpf.h"

/* As in the tracepoints' format files. The kernel gives no more than 1,023 bytes of a path. */
struct cgroup_change {
  u64 common;
  int hierarchy, level;
  u64 id;
  u32 path;
};

static inline int keep(struct cgroup_change *change, u8 gone) {
  u64 key = cgroup_key(change->hierarchy, change->id);
  if (!key) return 0;
  struct block *b = begin();
  if (b) {
    SET(b, time, bpf_ktime_get_boot_ns());
    SET(b, key, key);
    SET(b, gone, gone);
    SET_KERNEL_STRING(b, path, DATA_LOC(change, path));
    commit(b);
  }
  return 0;
}

int cgroup_made(struct cgroup_change *change) {
  return keep(change, 0);
}

int cgroup_renamed(struct cgroup_change *change) {
  return keep(change, 0);
}

int cgroup_gone(struct cgroup_change *change) {
  return keep(change, 1);
}
