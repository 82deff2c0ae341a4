"""What a ReFT adapter edits, and how: its equations, its positions, its settings, without torch but for `arithmetic`.

heft.reft computes it; recipes, cost models and reports need these facts alone.
"""
