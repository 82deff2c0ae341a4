"""`heft serve`: the engine behind an OpenAI-compatible HTTP interface. Needs the extra `serve`."""
