"""Receives batches from agents: validates, enriches, acknowledges or rejects them."""
