"""The agent: from the blocks of its probes to the server's acknowledgement."""
