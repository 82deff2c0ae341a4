"""Training of one stage: `stage.py` from top to bottom, `loop.py` the training loop, the rest what they use."""
