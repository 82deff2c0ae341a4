"""A run on the Hub: its adapters, and a model card made from what it wrote down.

| file | what it holds |
|---|---|
| facts.py | what a run says of itself |
| public.py | the same without what is nobody else's business: paths, user names |
| card.py, metadata.py | the model card, and its metadata for the Hub |
| folder.py | the files of the repository |
| push.py | one commit to the Hub |
"""
