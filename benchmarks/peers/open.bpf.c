/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The peer: openat(2) as one record per call in a ring buffer, in the way of bcc's own tools; the
 * fields of the probe `sample`.
 */
typedef unsigned short umode_t;

struct event {
  u64 time, duration_ns, cgroup_id;
  u32 pid, tid, ppid, uid, gid, flags;
  int return_code;
  char comm[16];
  char path[256];
};

struct entry {
  u64 time;
  const char *path;
  u32 flags;
};

BPF_HASH(entries, u32, struct entry, 10240);
BPF_RINGBUF_OUTPUT(events, 2048);
BPF_ARRAY(lost, u64, 1);

TRACEPOINT_PROBE(syscalls, sys_enter_openat) {
  u32 tid = bpf_get_current_pid_tgid();
  struct entry entry = {.time = bpf_ktime_get_ns(), .path = args->filename, .flags = args->flags};
  entries.update(&tid, &entry);
  return 0;
}

TRACEPOINT_PROBE(syscalls, sys_exit_openat) {
  u64 ids = bpf_get_current_pid_tgid(), user = bpf_get_current_uid_gid();
  u32 tid = ids;
  int zero = 0;
  struct entry *entry = entries.lookup(&tid);
  if (!entry) return 0;
  struct event *e = events.ringbuf_reserve(sizeof(struct event));
  if (!e) {
    lost.increment(zero);
    entries.delete(&tid);
    return 0;
  }
  e->time = entry->time;
  e->duration_ns = bpf_ktime_get_ns() - entry->time;
  e->cgroup_id = bpf_get_current_cgroup_id();
  e->pid = ids >> 32;
  e->tid = tid;
  e->ppid = 0;
  e->uid = user;
  e->gid = user >> 32;
  e->flags = entry->flags;
  e->return_code = args->ret;
  bpf_get_current_comm(e->comm, sizeof(e->comm));
  bpf_probe_read_user_str(e->path, sizeof(e->path), entry->path);
  events.ringbuf_submit(e, 0);
  entries.delete(&tid);
  return 0;
}
