"""The kernel side: offsets from BTF, the loader process, blocks and their reader."""
