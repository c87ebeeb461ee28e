/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Stores a call's `struct entry` from its entry to its exit. Included by infrasight.bpf.h.
 *
 * The last bits of a thread's id choose a slot of an array, which costs a load and an atomic
 * exchange. A hash takes the entry only if another thread's call in progress occupies that slot;
 * the hash costs ten times as much.
 */
struct entry_slot {
  u64 owner; /* the thread's id; 0 if the slot is free */
  struct entry entry;
};

BPF_ARRAY(entry_slots, struct entry_slot, ENTRY_SLOTS);
BPF_HASH(entries, u32, struct entry, ENTRIES);

static inline struct entry_slot *entry_slot_of(u32 thread) {
  int index = thread & (ENTRY_SLOTS - 1);
  return entry_slots.lookup(&index);
}

/* Stores the entry of the current thread's call and sets its `time`. Without room for it, the event
 * is still recorded, flagged ENTRY_MISSING. Returns 0, so that a program can return the result. */
static inline int enter(struct entry *entry) {
  u32 thread = bpf_get_current_pid_tgid();
  struct entry_slot *slot = entry_slot_of(thread);
  entry->time = bpf_ktime_get_boot_ns();
  if (slot &&
      (slot->owner == thread || __sync_val_compare_and_swap(&slot->owner, 0, (u64)thread) == 0)) {
    slot->entry = *entry;
  } else if (entries.update(&thread, entry)) {
    struct block *b = this_block();
    if (b) b->_entries_full++;
  }
  return 0;
}

/* The entry of a thread's call in progress, or NULL. */
static inline struct entry *entry_of(u32 thread) {
  struct entry_slot *slot = entry_slot_of(thread);
  return slot && slot->owner == thread ? &slot->entry : entries.lookup(&thread);
}

/* Discards a thread's entry. The exchange is fully ordered, so the slot becomes free only after
 * everything has been read from it. */
static inline void forget(u32 thread) {
  struct entry_slot *slot = entry_slot_of(thread);
  if (!slot || __sync_val_compare_and_swap(&slot->owner, (u64)thread, 0) != thread)
    entries.delete(&thread);
}
