"""What a recipe will cost, before it runs: steps, FLOPs, memory and time, from the data and the model's shape alone."""
