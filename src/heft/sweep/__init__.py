"""Many configurations of a recipe's last stage, trained side by side in one forward pass, and ranked.

| file | what it holds |
|---|---|
| packing.py | which tokens run: work items side by side in one sequence, or in rows of their own |
| forward.py | the forward pass over these, and the loss of every work item |
| learner.py | one configuration: rows, optimizer, schedule and random numbers, as in a run of its own |
| retry.py | passes that may fail: the token budget, and what happens where one fails |
| training.py | all learners in lockstep |
| sharing.py | which configurations run behind shared prompt prefixes |
| arrange.py | the configurations attached to one model, and removed afterwards |
| results.py | validation loss and accuracy, ranked |
| report.py | results.json, results.csv and sweep.svg |
| run.py | `heft sweep`, from recipe to directory |
| costs.py | what a sweep will cost |

The settings are in heft.recipe.sweep, the combinations in heft.recipe.grid.
"""
