"""A person's own rows: support tickets with a label each."""

import csv
import random

PARTS = {
    "refund": ("I want my money back for the", "Please refund the"),
    "delay": ("Where is my", "I still wait for the"),
    "broken": ("It does not work, the", "After a day it broke, my"),
    "account": ("I cannot log in since I bought the", "Change my password, I ordered the"),
}
COLUMNS = ["id", "text", "label"]


def write_tickets(folder):
    """200 tickets of four labels, as a spreadsheet writes them: a byte order mark, CRLF."""
    generator = random.Random(0)
    rows = [
        (f"T{number:04}", f"{generator.choice(PARTS[label])} {thing} of order {number}", label)
        for number, (label, thing) in enumerate((label, thing) for label in PARTS for thing in ["lamp", "chair"] * 25)
    ]
    generator.shuffle(rows)
    with open(folder / "tickets.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
