"""The label data sets of two_stages.py, from public repositories: AG News, Banking77 and SST-2 as JSON Lines.

    python benchmarks/two_stages_data.py --clones DIR --out DATA

DIR has clones of the three repositories below, each in a folder of the repository's own name. DATA gets
`<name>_train.jsonl` and `<name>_test.jsonl`, in an order drawn by seed 0. Of AG News only the 7,600 rows of its test
file are used, 5,600 of them to train on, since its file of training rows is large and no cell needs more than 3,000.
"""

import argparse
import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

AG_NEWS = "CharCnn_Keras"  # github.com/mhjabreel/CharCnn_Keras
BANKING77 = "task-specific-datasets"  # github.com/donnytk/task-specific-datasets, copied from PolyAI
SST2 = "pytorch-sentiment-classification"  # github.com/clairett/pytorch-sentiment-classification
AG_NEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")
AG_NEWS_TRAIN = 5600

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clones", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    news = shuffled(ag_news(text(options.clones / AG_NEWS / "data/ag_news_csv/test.csv")))
    write(options.out / "agnews_train.jsonl", news[:AG_NEWS_TRAIN])
    write(options.out / "agnews_test.jsonl", news[AG_NEWS_TRAIN:])
    for split in ("train", "test"):
        banking = banking77(text(options.clones / BANKING77 / f"banking_data/{split}.csv"))
        write(options.out / f"banking77_{split}.jsonl", shuffled(banking))
        reviews = sst2(text(options.clones / SST2 / f"data/SST2/{split}.tsv"))
        write(options.out / f"sst2_{split}.jsonl", shuffled(reviews))


def text(path: Path) -> str:
    """A file's text, line ends in cells as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def ag_news(content: str) -> list[Row]:
    """Rows of class, title and description, without a header; the class counts from 1."""
    rows = csv.reader(io.StringIO(content, newline=""))
    return [{"text": f"{title}. {about}", "label": AG_NEWS_LABELS[int(kind) - 1]} for kind, title, about in rows]


def banking77(content: str) -> list[Row]:
    """Rows of text and category; the few without a category are left out."""
    rows = csv.DictReader(io.StringIO(content, newline=""))
    return [{"text": row["text"], "intent": row["category"].replace("_", " ")} for row in rows if row["category"]]


def sst2(content: str) -> list[Row]:
    """Lines of a sentence, a tab and 0 or 1."""
    lines = (line.rsplit("\t", 1) for line in content.split("\n") if line)
    return [{"text": sentence, "label": ("negative", "positive")[int(label)]} for sentence, label in lines]


def shuffled(rows: list[Row]) -> list[Row]:
    random.Random(0).shuffle(rows)
    return rows


def write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
