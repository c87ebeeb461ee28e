"""Receives batches from agents: validates, enriches and queues them, and answers each."""
