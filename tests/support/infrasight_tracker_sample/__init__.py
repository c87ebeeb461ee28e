"""A third party's enricher with a program in the kernel: it uses nothing of the core but what `infrasight_core` exports."""
