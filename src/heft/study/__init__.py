"""Studies: several recipes with several seeds at one budget, run and compared."""
