"""heft without files: rows in Python, a recipe in Python, predictions in Python. Run: python examples/python_api.py

With the tiny random model (seconds, nothing to download) the answers mean nothing; `python examples/python_api.py
embedded:smollm2-135m-instruct` takes a real one from an installed package, in some minutes.
"""

import sys
import tempfile
from pathlib import Path

import heft

PARTS = {
    "billing": ["my invoice is wrong", "I was charged twice", "where is my refund", "the bill has a wrong address"],
    "login": ["I cannot log in", "my password is refused", "the reset link is dead", "my account is locked"],
}
WHEN = ["since today", "since Monday", "after the update", "again", "on my phone", "at home", "for a week", "abroad"]


def rows() -> list[dict[str, str]]:
    """Labelled tickets: what a person would read from their own table."""
    made = [(f"{text} {when}", label) for label, texts in PARTS.items() for text in texts for when in WHEN]
    return [{"text": text, "label": label} for text, label in made]


def recipe(model: str) -> heft.Recipe:
    """Both stages on these rows. The same as a recipe in YAML, and as strict."""
    return heft.Recipe(
        name="tickets",
        model=heft.ModelSettings(name=model),
        task=heft.RowsSettings(
            train=rows(), prompt="Ticket: {text}\nCategory:", answer="label", choices="labels", format="cloze"
        ),
        stages={
            "coarse": heft.LoraStage(rank=4, steps=8, batch_size=8),
            "fine": heft.ReftStage(rank=4, positions="l4", steps=8, batch_size=8),
        },
    )


def main(model: str = "random:tiny-llama") -> None:
    """Train, look at the result, predict on new rows."""
    with tempfile.TemporaryDirectory() as folder:
        result = heft.train(recipe(model), output=Path(folder) / "run")
        print(result)
        new = [{"text": "my invoice has a wrong date"}, {"text": "the login page is empty"}]
        for row in result.predict(new):
            print(f"{row['text']}: {row['prediction']} ({row['probability']:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:2])
