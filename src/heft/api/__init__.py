"""heft from Python: `heft.train` and `heft.predict`, with the options of the commands, and results that show."""
