"""What training costs, counted from shapes alone: FLOPs of operations, of rows, of stages. No weights are read."""
