"""A model's answers to rows whose answers are not known."""
