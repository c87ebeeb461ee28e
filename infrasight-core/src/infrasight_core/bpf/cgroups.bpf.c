/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Cgroups as they are created, renamed and removed: the program of a tracker. Its rows are not
 * events but state that the enricher `containers` needs. A cgroup is announced before any task can
 * be in it, and so before the enricher sees an event of such a task.
 */
#define COLUMNS(FIXED, CHARS, TEXT) FIXED(u64, key) FIXED(u8, gone) TEXT(path, 1024, 256)

struct entry { /* these are no calls, so that nothing is stored */
  u64 time;
};

#include "infrasight.bpf.h"

/* The context, as the tracepoints' format files describe it. The kernel truncates the path to 1,023
 * bytes. */
struct cgroup_change {
  u64 common;
  int hierarchy, level;
  u64 id;
  u32 path;
};

static inline int record(struct cgroup_change *change, bool is_gone) {
  u64 cgroup = cgroup_key(change->hierarchy, change->id);
  if (!cgroup) return 0;
  struct block *b = begin();
  if (b) {
    SET(b, time, bpf_ktime_get_boot_ns());
    SET(b, key, cgroup);
    SET(b, uid, bpf_get_current_uid_gid()); /* who creates, renames or removes it */
    SET(b, gone, is_gone);
    SET_KERNEL_STRING(b, path, DATA_LOC(change, path));
    commit(b);
  }
  return 0;
}

int cgroup_made(struct cgroup_change *change) {
  return record(change, false);
}

int cgroup_renamed(struct cgroup_change *change) {
  return record(change, false);
}

int cgroup_gone(struct cgroup_change *change) {
  return record(change, true);
}
