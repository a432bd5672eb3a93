"""`metabench doctor`: prints what the doctor found."""

from typing import Any

from bench.cli.text import columns, say, say_json, warn
from bench.doctor import examine


def show_examination(json: bool) -> int:
    """Print the examination. Returns 1 if a meter measures wrongly or a plugin is broken, else 0."""
    found = examine()
    if json:
        say_json(found)
    else:
        for title, section in found.items():
            if title != "wrong":
                say(title.replace("_", " "), style="bold")
                for line in columns((key.replace("_", " "), _plain(v)) for key, v in section.items()):
                    say(line)
                say()
        for line in found["wrong"]:
            warn(line)
    return 1 if found["wrong"] else 0


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not there"
    if isinstance(value, dict):
        return "; ".join(_plain(v) for v in value.values() if v is not None) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
