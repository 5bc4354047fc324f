# SPDX-License-Identifier: MIT
"""gcov's counts for convt1d/cpu by line of Cython and C: tests/lines.py BUILD_FOLDER

Lines of generated C belong to the Cython line that the comment above them quotes, up to the function's exit code. A
line of a fused type, a macro or an inline function is compiled several times: it counts if one of the copies ran.
"""

import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

QUOTE = re.compile(r'^ *(?:/\*|\*) "(convt1d/cpu/\w+\.(?:pyx|pxd))":(\d+)$')


def sources(path):
    """The Cython file and line of each line of a generated C file."""
    found, at = [None], None
    for line in path.read_text(encoding="utf-8").splitlines():
        quoted = QUOTE.match(line)
        if quoted:
            at = Path(quoted[1]).name, int(quoted[2])
        elif "/* function exit code */" in line or line == "}":
            at = None
        found.append(at)
    return found


counts: dict = defaultdict(lambda: defaultdict(int))
with tempfile.TemporaryDirectory() as folder:
    for data in sorted(Path(sys.argv[1]).resolve().glob("**/*.gcda")):
        subprocess.run(["gcov", "--json-format", str(data)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for report in Path(folder).glob("*.json.gz"):
            for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
                path = Path(file["file"])
                if "cpu" not in path.parts or path.suffix not in (".c", ".inc", ".h"):
                    continue
                origin = sources(path) if path.suffix == ".c" else None
                for line in file["lines"]:
                    at = origin[line["line_number"]] if origin else (path.name, line["line_number"])
                    if at:
                        counts[at[0]][at[1]] += line["count"]
            report.unlink()


def runs(lines):
    """1, 2, 3, 5 as "1-3 5"."""
    found: list = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return " ".join(f"{a}-{b}" if a < b else str(a) for a, b in found)


total = missed = 0
for name in sorted(counts):
    missing = sorted(line for line, count in counts[name].items() if not count)
    total, missed = total + len(counts[name]), missed + len(missing)
    print(f"{name:16} {len(counts[name]):5} lines {1 - len(missing) / len(counts[name]):6.1%}   {runs(missing)}")
print(f"{'all':16} {total:5} lines {1 - missed / total:6.1%}")
