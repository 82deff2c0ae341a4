"""Training of one stage: the loss on answers, the Trainer that minimises it, and the course of a stage."""
