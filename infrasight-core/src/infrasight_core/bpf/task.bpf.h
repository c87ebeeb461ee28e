/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel's structs, and which task and cgroup they say. Included by infrasight.bpf.h.
 */
/* Reads a member of a kernel struct; 0 where the memory cannot be read. */
#define FIELD(type, object, struct_member)                                                                                     \
  ({                                                                                                                           \
    type value_ = 0;                                                                                                           \
    bpf_probe_read_kernel(&value_, sizeof(value_), (char *)(object) + OFFSET_##struct_member);                                 \
    value_;                                                                                                                    \
  })

/* Reads a member where the kernel's own types lead from the current task to the object: a load, where FIELD is a call. A NULL on
 * the way is 0; the verifier of some kernels wants to see it checked. */
#define MEMBER(type, object, struct_member)                                                                                    \
  ({                                                                                                                           \
    u64 object_ = (u64)(object), value_ = 0;                                                                                   \
    if (object_) asm volatile("%0 = *(" #type " *)(%1 + %2)" : "=r"(value_) : "r"(object_), "i"(OFFSET_##struct_member));      \
    value_;                                                                                                                    \
  })
#define CURRENT_TASK ((u64)bpf_get_current_task_btf())

/* A process for ever: the start of its first thread in units of 2^20 ns (1.05 ms) above 22 bits of pid, since boot here, since
 * the epoch when the agent has added the time of boot. A pid does not come round within a unit. */
static inline u64 process_key(u64 task, u32 pid) {
  u64 leader = MEMBER(u64, task, task_struct__group_leader);
  return (MEMBER(u64, leader, task_struct__start_boottime) >> 20 << 22) | pid;
}

static inline u64 key_of(u64 task) {
  return process_key(task, MEMBER(u32, task, task_struct__tgid));
}

/* A cgroup as one number (kernel/cgroups.py): its id in the v2 hierarchy, which is its directory's inode; where the v2 hierarchy
 * is not in use, so that everyone is in its root, the id in one v1 hierarchy, marked; 1 for who is in the root of both. Each
 * hierarchy numbers its own. The agent defines CGROUP_V1_HIERARCHY and CGROUP_V1_INDEX where the kernel has such a one. */
#define CGROUP_V1 (1ULL << 63)
#define CGROUP_ROOT 1
#define CGROUP_V2_HIERARCHY 0
#define OFFSET_css_set__v1 (OFFSET_css_set__subsys + 8 * CGROUP_V1_INDEX)

static inline u64 cgroup_id(u64 cgroup) {
  return MEMBER(u64, MEMBER(u64, cgroup, cgroup__kn), kernfs_node__id);
}

static inline u64 cgroup_of(u64 task) {
  u64 groups = MEMBER(u64, task, task_struct__cgroups), id = cgroup_id(MEMBER(u64, groups, css_set__dfl_cgrp));
#ifdef CGROUP_V1_HIERARCHY
  if (id <= CGROUP_ROOT) {
    u64 v1 = cgroup_id(MEMBER(u64, MEMBER(u64, groups, css_set__v1), cgroup_subsys_state__cgroup));
    if (v1 > CGROUP_ROOT) return CGROUP_V1 | v1;
  }
#endif
  return id;
}

/* The same number, for what tells of a cgroup by its hierarchy and its id there; 0 for one of another hierarchy. */
static inline u64 cgroup_key(int hierarchy, u64 id) {
  if (hierarchy == CGROUP_V2_HIERARCHY) return id;
#ifdef CGROUP_V1_HIERARCHY
  if (hierarchy == CGROUP_V1_HIERARCHY) return CGROUP_V1 | id;
#endif
  return 0;
}
