"""Pictures: where they come from, how they are read, and the batches and noise made of them."""
