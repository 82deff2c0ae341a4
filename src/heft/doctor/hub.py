"""Whether models and data may come from the Hub, and, only where asked, whether it answers."""

import os
import urllib.error
import urllib.request

from heft.doctor.line import Line, fault, note, ok

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_YES = {"1", "ON", "YES", "TRUE"}
_TIMEOUT_SECONDS = 10


def check_hub(online: bool) -> list[Line]:
    """What the environment says; with `online`, what the Hub says."""
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in _YES]
    if offline:
        text = f"offline, by {' and '.join(offline)}: models and data come from folders, wheels and the Hub's cache"
        lines = [note("hub", text, f"unset {' '.join(offline)} to load from the Hub")]
    else:
        lines = [ok("hub", "models and data may come from the Hub")]
    return lines + [_reached()] if online else lines


def _reached() -> Line:
    try:
        from huggingface_hub.constants import ENDPOINT
    except Exception as error:  # it comes with transformers, which may be what is broken
        return fault("hub", f"where it is is not known: {error}", "pip install huggingface_hub")
    advice = "check network and proxy (HTTPS_PROXY); or work offline: local folders, embedded:, source: wheel"
    try:
        with urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=_TIMEOUT_SECONDS):
            return ok("hub", f"{ENDPOINT} answers")
    except urllib.error.HTTPError as error:
        if error.code < 500:  # whoever refuses has been reached
            return ok("hub", f"{ENDPOINT} answers, with status {error.code}")
        return fault("hub", f"{ENDPOINT} answers with status {error.code}", f"try later; {advice}")
    except (OSError, ValueError) as error:
        return fault("hub", f"{ENDPOINT} cannot be reached: {error}", advice)
