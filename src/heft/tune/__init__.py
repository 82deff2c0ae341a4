"""`heft tune`: method, settings and the switch between stages, chosen on validation rows within a budget.

| file | what it holds |
|---|---|
| budget.py | what a search may spend |
| space.py | what is tried: stages from templates and lists of values, spread over all values |
| trial.py | a trial as a recipe, and what came out of it |
| ledger.py | trials.jsonl: all that is finished, and each arm's account |
| bench.py, measure.py | one base model on which trials are trained, and measured |
| prices.py | what a trial will cost, so how long it may be |
| planner.py | which candidates are trained for how long, and their training |
| halving.py, rounds.py | rounds of successive halving: which trials go on, and an arm's rounds |
| repeats.py | an arm's best trials again, on other rows, and its best recipe |
| forks.py, switch.py | second stages at the forks of a coarse stage, and the fork where the switch is |
| weights.py | trained coarse stages, to build on |
| arms.py | each arm's search, piece by piece |
| news.py | what a person hears on the way |
| trainers.py, member.py, logged.py | who trains the trials of a round: this process, or a cluster |
| verdict.py | the arms against each other, ties said to be ties |
| report.py, recipes.py | table, plot and JSON; recipes of the arms, a study of them |
| ready.py, run.py | `heft tune`, from its first checks to its directory |

The settings are in heft.recipe.tune.
"""
