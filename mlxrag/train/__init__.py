"""Train adapters: plan, batches, loop."""
