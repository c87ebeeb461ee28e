"""Records on one node: from the kernel's blocks to the server's acknowledgement."""
