/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Members of kernel structs, and the identity of tasks and cgroups. Included by infrasight.bpf.h.
 *
 * A member is written `struct__member`, or `struct__member__member` for a member of a member. The
 * agent scans the source for these names and defines OFFSET_struct__member for each, from the BTF
 * of the running kernel (kernel/c_source.py). It finds a name that follows `OFFSET_`, and one that
 * is an argument of a macro that pastes it to `OFFSET_`, as FIELD does.
 */

/* Declares members that some kernels do not have: there their offset is -1. Any other member that
 * the running kernel lacks is an error when the program is loaded. */
#define OPTIONAL_FIELDS(...) _Static_assert(1, #__VA_ARGS__)

/* Whether the running kernel has an optional member. */
#define HAS_FIELD(struct_member) (OFFSET_##struct_member >= 0)

/* Reads a member of a kernel struct; 0 if the memory cannot be read. */
#define FIELD(type, object, struct_member)                                                         \
  ({                                                                                               \
    type value_ = 0;                                                                               \
    bpf_probe_read_kernel(&value_, sizeof(value_), (char *)(object) + OFFSET_##struct_member);     \
    value_;                                                                                        \
  })

/* Reads a member of an object that the kernel's own types lead to from the current task. This is a
 * load, where FIELD is a helper call. If `object` is NULL the result is 0; the verifiers of some
 * kernels demand the check. */
#define MEMBER(type, object, struct_member)                                                        \
  ({                                                                                               \
    u64 object_ = (u64)(object), value_ = 0;                                                       \
    if (object_)                                                                                   \
      asm volatile("%0 = *(" #type " *)(%1 + %2)"                                                  \
                   : "=r"(value_)                                                                  \
                   : "r"(object_), "i"(OFFSET_##struct_member));                                   \
    value_;                                                                                        \
  })
#define CURRENT_TASK ((u64)bpf_get_current_task_btf())

/* The context of a tracepoint has only the offset of a string; this is its address. */
#define DATA_LOC(context, member) ((char *)(context) + ((context)->member & 0xffff))

/* Identifies a process across reuse of its pid: the start of its first thread, in units of 2^20 ns
 * (1.05 ms), above 22 bits of pid. A pid is not reused within a unit. The start counts from boot
 * here; the agent adds the time of boot. */
static inline u64 process_key_of(u64 task, u32 process) {
  u64 leader = MEMBER(u64, task, task_struct__group_leader);
  return (MEMBER(u64, leader, task_struct__start_boottime) >> 20 << 22) | process;
}

/* A cgroup as one number, which the agent computes in the same way (kernel/cgroups.py): its id in
 * the v2 hierarchy, that is, the inode of its directory. Where the v2 hierarchy is not in use, so
 * that every task is in its root, the id in one v1 hierarchy plus CGROUP_V1, because each hierarchy
 * numbers its own cgroups. CGROUP_ROOT for a task in the roots of both. The agent defines
 * CGROUP_V1_HIERARCHY and CGROUP_V1_INDEX if the kernel has such a v1 hierarchy. */
#define CGROUP_V1 (1ULL << 63)
#define CGROUP_ROOT 1
#define CGROUP_V2_HIERARCHY 0
#define OFFSET_css_set__v1 (OFFSET_css_set__subsys + 8 * CGROUP_V1_INDEX)

/* The id of a `struct cgroup` in its hierarchy. */
static inline u64 kernfs_id_of(u64 cgroup) {
  return MEMBER(u64, MEMBER(u64, cgroup, cgroup__kn), kernfs_node__id);
}

static inline u64 cgroup_of(u64 task) {
  u64 groups = MEMBER(u64, task, task_struct__cgroups);
  u64 id = kernfs_id_of(MEMBER(u64, groups, css_set__dfl_cgrp));
#ifdef CGROUP_V1_HIERARCHY
  if (id <= CGROUP_ROOT) {
    u64 state = MEMBER(u64, groups, css_set__v1);
    u64 v1_id = kernfs_id_of(MEMBER(u64, state, cgroup_subsys_state__cgroup));
    if (v1_id > CGROUP_ROOT) return CGROUP_V1 | v1_id;
  }
#endif
  return id;
}

/* The same number, computed from a hierarchy and the cgroup's id in it; 0 if no task's number can
 * come from that hierarchy. */
static inline u64 cgroup_key(int hierarchy, u64 id) {
  if (hierarchy == CGROUP_V2_HIERARCHY) return id;
#ifdef CGROUP_V1_HIERARCHY
  if (hierarchy == CGROUP_V1_HIERARCHY) return CGROUP_V1 | id;
#endif
  return 0;
}
