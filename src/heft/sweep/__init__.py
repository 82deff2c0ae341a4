"""Many configurations of a recipe's last stage, trained side by side in one forward pass, and ranked.

| file | what it holds |
|---|---|
| settings.py | the recipe's `sweep`, declared once, without torch |
| grid.py | the combinations, each checked as a stage; the winner as a recipe; without torch |
| copies.py | who trains on which row: laid side by side, or in rows of their own |
| passes.py | the forward passes over these layouts, and the loss of every copy |
| learner.py | one configuration: its rows, optimiser, schedule and random numbers, those that it has alone |
| memory.py | how many tokens a pass may hold, and fewer once memory ran out |
| trials.py | passes that may fail, and what is done where one does |
| training.py | all learners in lock-step |
| results.py | held-back figures, ranked |
| report.py | table, JSON, CSV and plot |
| run.py | `heft sweep`, from recipe to directory |
"""
