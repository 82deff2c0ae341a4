"""Stages of the recipes that the adapters under test are trained by, and the base's number format."""

TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 8, eval_size: 8}"
LORA = "{method: lora, rank: 4, steps: 6, batch_size: 4, learning_rate: 0.03}"


def reft(positions, more=""):
    return f"{{method: reft, rank: 2, positions: {positions}, steps: 4, batch_size: 4, learning_rate: 0.1{more}}}"


RECIPES = {
    "last": (f"{{coarse: {LORA}, fine: {reft('l4')}}}", "float32"),
    "both ends": (f"{{coarse: {LORA}, fine: {reft('f1+l1')}}}", "float32"),
    "all": (f"{{coarse: {LORA}, fine: {reft('all')}}}", "float32"),
    "upper": (f"{{fine: {reft('f1', ', layers: [2, 3]')}, after: {LORA}}}", "float32"),
    "joint": (
        "{both: {method: joint, steps: 6, batch_size: 4, learning_rate: 0.03, reft: {positions: f1+l1}}}",
        "float32",
    ),
    "dora": (
        f"{{first: {LORA}, second: {LORA.replace('rank: 4', 'rank: 2, dora: true')}, fine: {reft('l2')}}}",
        "float32",
    ),
    "lora": (f"{{coarse: {LORA}}}", "float32"),
    "positions": (f"{{coarse: {LORA.replace('rank: 4', 'rank: 4, positions: l6')}, fine: {reft('l4+')}}}", "float32"),
    "bfloat16": (f"{{coarse: {LORA}, fine: {reft('l4')}}}", "bfloat16"),
}
