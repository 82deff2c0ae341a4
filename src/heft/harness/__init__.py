"""lm-evaluation-harness on heft's models: `import heft.harness` registers the model class `heft` with it.

    import heft.harness, lm_eval
    lm_eval.simple_evaluate(model="heft", model_args="pretrained=runs/quickstart", tasks=["boolq"])

`python -m heft.harness` is the harness's own command with the class registered; the harness finds no models of other
packages by itself. The package lm-eval is the extra `harness`.
"""

from heft.harness.registration import register

register()
