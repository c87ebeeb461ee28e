/* What BCC asks of a kernel's configuration; true of every kernel that runs BPF programs. */
#pragma once

#define CONFIG_64BIT 1
#define CONFIG_BPF_SYSCALL 1
