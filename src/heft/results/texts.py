"""How like generated texts are to their references, by the libraries with which others measure it.

Sources: ROUGE-L, C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), by rouge-score; chrF,
M. Popović, "chrF: character n-gram F-score for automatic MT evaluation" (2015), by sacrebleu.
"""

import unicodedata
from collections.abc import Sequence


class Words:
    """Words in lower case, of every script.

    rouge-score's own tokenizer keeps the letters a to z only, so that texts in other scripts have no words at all;
    texts in ASCII have the same words here.
    """

    def tokenize(self, text: str) -> list[str]:
        """The words of a text: letters and digits, with the marks on them, which are the vowels of many scripts."""
        kept = [" "]
        for c in text.lower():
            is_mark = unicodedata.category(c)[0] == "M" and kept[-1] != " "  # one behind a picture is no word
            kept.append(c if c.isalnum() or is_mark else " ")
        return "".join(kept).split()


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> float:
    """Mean F of ROUGE-L over texts, 0 to 1: the longest common subsequence of words, with no stemming."""
    from rouge_score.rouge_scorer import RougeScorer  # here because it takes a second to import

    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    scores = [scorer.score(right, text)["rougeL"].fmeasure for text, right in zip(texts, references, strict=True)]
    return sum(scores) / len(scores)


def chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """chrF of all texts together, 0 to 1 (sacrebleu: 0 to 100), with sacrebleu's defaults (chrF2)."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().corpus_score(list(texts), [list(references)]).score / 100
