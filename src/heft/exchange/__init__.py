"""Adapters out to other libraries' formats and in from them, exactly or not at all.

| file | what it holds |
|---|---|
| export.py | `heft export`: what is refused, what is written |
| subject.py | what is exported: the adapters chosen of a directory, their configurations, the loaded model |
| refusals.py | why something cannot be exported exactly, before anything is loaded |
| merging.py | LoRA into weights |
| folding.py, biases.py | an edit of all tokens into the linear layer whose output it edits |
| factors.py | LoRA and folded edits as one LoRA |
| checking.py | the exported model against the adapted one |
| to_transformers.py, to_peft.py, to_pyreft.py | the three formats |
| pyreft_format.py | pyreft's names, keys and files |
| importing.py, from_pyreft.py | `heft import` |
"""
