"""Reports: runs as one HTML page that needs nothing else, and as a Markdown table.

Each section of the page is one file, which turns arms and their comparison into tables and panels (parts.py); page.py
puts them in order. Nothing here imports torch.
"""
