/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The peer: execve(2) as one record per call in a ring buffer, in the way of bcc's own tools; it
 * takes the filename and two arguments, far less than the probe `execve` does.
 */
typedef unsigned short umode_t;

struct event {
  u64 time, duration_ns, cgroup_id;
  u32 pid, tid, ppid, uid, gid;
  int return_code;
  char comm[16];
  char filename[256];
  char first[128], second[128];
};

struct entry {
  u64 time;
  const char *filename, *first, *second;
};

BPF_HASH(entries, u32, struct entry, 10240);
BPF_RINGBUF_OUTPUT(events, 2048);
BPF_ARRAY(lost, u64, 1);

TRACEPOINT_PROBE(syscalls, sys_enter_execve) {
  u64 ids = bpf_get_current_pid_tgid(), user = bpf_get_current_uid_gid();
  int zero = 0;
  const char *argument = NULL;
  struct event *e = events.ringbuf_reserve(sizeof(struct event));
  if (!e) {
    lost.increment(zero);
    return 0;
  }
  e->time = bpf_ktime_get_ns();
  e->duration_ns = 0;
  e->cgroup_id = bpf_get_current_cgroup_id();
  e->pid = ids >> 32;
  e->tid = ids;
  e->ppid = 0;
  e->uid = user;
  e->gid = user >> 32;
  e->return_code = 0;
  bpf_get_current_comm(e->comm, sizeof(e->comm));
  bpf_probe_read_user_str(e->filename, sizeof(e->filename), args->filename);
  bpf_probe_read_user(&argument, sizeof(argument), args->argv);
  bpf_probe_read_user_str(e->first, sizeof(e->first), argument);
  bpf_probe_read_user(&argument, sizeof(argument), args->argv + 1);
  bpf_probe_read_user_str(e->second, sizeof(e->second), argument);
  events.ringbuf_submit(e, 0);
  return 0;
}
