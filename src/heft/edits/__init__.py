"""What a ReFT adapter edits, and how, without torch: its equations, its positions, its settings.

heft.reft computes it; recipes, cost models and reports need these facts alone.
"""
