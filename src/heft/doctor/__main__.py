"""`python -m heft.doctor [--online] [--json]`: as `heft doctor`, where the command line itself does not start."""

import sys

from heft.doctor import examine
from heft.doctor.line import as_json, as_text, has_fault

if __name__ == "__main__":
    lines = examine("--online" in sys.argv[1:])
    print(as_json(lines) if "--json" in sys.argv[1:] else as_text(lines))
    sys.exit(1 if has_fault(lines) else 0)
