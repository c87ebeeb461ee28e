/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a call's entry tells, kept until its exit. Included by infrasight.bpf.h.
 *
 * A thread's entry lies in the slot of its number's last bits, where it costs a load and an atomic exchange; only when another
 * thread's call is under way in that slot, it goes into the hash, which costs ten times as much.
 */
struct held {
  u64 owner; /* the thread, 0 for none */
  struct entry entry;
};

BPF_ARRAY(held_entries, struct held, ENTRY_SLOTS);
BPF_HASH(entries, u32, struct entry, ENTRIES);

static inline struct held *held_by(u32 tid) {
  int slot = tid & (ENTRY_SLOTS - 1);
  return held_entries.lookup(&slot);
}

/* Keeps an entry; without it the event is recorded all the same, as ENTRY_MISSING. */
static inline int enter(struct entry *entry) {
  u32 tid = bpf_get_current_pid_tgid();
  struct held *held = held_by(tid);
  entry->time = bpf_ktime_get_boot_ns();
  if (held && (held->owner == tid || __sync_val_compare_and_swap(&held->owner, 0, (u64)tid) == 0)) {
    held->entry = *entry;
  } else if (entries.update(&tid, entry)) {
    struct block *b = this_block();
    if (b) b->_entries_full++;
  }
  return 0;
}

static inline struct entry *entry_of(u32 tid) {
  struct held *held = held_by(tid);
  return held && held->owner == tid ? &held->entry : entries.lookup(&tid);
}

/* Lets the slot go only after all that was read of it: the exchange is fully ordered. */
static inline void forget(u32 tid) {
  struct held *held = held_by(tid);
  if (!held || __sync_val_compare_and_swap(&held->owner, (u64)tid, 0) != tid) entries.delete(&tid);
}
