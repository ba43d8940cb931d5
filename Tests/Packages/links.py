"""The files that packaged documents link are there: script/check-packages asks it of each package. Prints those that are not; status 1 then."""

import re
import sys
from pathlib import Path

missing = [f"{page}: {target}" for page in sorted(Path(sys.argv[1]).rglob("*.md"))
           for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
           if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()]
print("\n".join(missing))
sys.exit(1 if missing else 0)
