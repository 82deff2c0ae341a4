"""Many adapters on one base model, answered together: the engine, and `heft serve` on top of it."""
