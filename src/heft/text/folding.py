"""Texts that count as the same."""

import unicodedata


def plain(text: str) -> str:
    """Text with every run of whitespace as one space, and every letter with its accents as one character (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def folded(text: str) -> str:
    """Text as `plain`, in lower case and with compatible characters as one (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())
