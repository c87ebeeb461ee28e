/* Registers are not read by any probe; the type must exist for BCC. */
#pragma once

struct pt_regs {
  unsigned long regs[32];
};
