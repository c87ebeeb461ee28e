/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who made a call, kept for an event that is over when another task runs. A probe includes this file behind infrasight.bpf.h.
 */
struct caller {
  u64 process_key, parent_process_key, grandparent_process_key, cgroup_id;
  u32 pid, tid, ppid, uid, gid, via;
  char comm[16];
};

/* Whether the current task's events are recorded; if so, `caller` has been filled with who it is. */
static inline bool keep_caller(struct block *b, struct caller *caller) {
  u64 ids = bpf_get_current_pid_tgid(), user = bpf_get_current_uid_gid();
  u64 task = CURRENT_TASK, parent = MEMBER(u64, task, task_struct__real_parent);
  u32 ppid = MEMBER(u32, parent, task_struct__tgid);
  if (task_is_filtered(b) || FILTER_OURS(b->_filters, ppid)) return false;
  caller->process_key = process_key(task, ids >> 32);
  caller->parent_process_key = process_key(parent, ppid);
  caller->grandparent_process_key = key_of(MEMBER(u64, parent, task_struct__real_parent));
  caller->cgroup_id = cgroup_of(task);
  caller->pid = ids >> 32;
  caller->tid = ids;
  caller->ppid = ppid;
  caller->uid = user;
  caller->gid = user >> 32;
  caller->via = in_compat_call() ? VIA_COMPAT : VIA_SYSCALL;
  bpf_get_current_comm(caller->comm, sizeof(caller->comm));
  return true;
}

/* Fills the header's columns of an event that was begun with begin_for_other(). */
static inline void common_of(struct block *b, struct caller *caller, u64 began, u64 duration, int return_code) {
  SET(b, time, began);
  SET(b, duration_ns, duration);
  SET(b, pid, caller->pid);
  SET(b, tid, caller->tid);
  SET(b, ppid, caller->ppid);
  SET(b, process_key, caller->process_key);
  SET(b, parent_process_key, caller->parent_process_key);
  SET(b, grandparent_process_key, caller->grandparent_process_key);
  SET(b, uid, caller->uid);
  SET(b, gid, caller->gid);
  SET(b, cgroup_id, caller->cgroup_id);
  SET(b, return_code, return_code);
  SET(b, via, caller->via);
  __builtin_memcpy(CHARS_AT(b, comm, 16), caller->comm, 16);
}
