"""Names from plugins, data and settings, made harmless where they are shown."""

from __future__ import annotations

import re

_MARKDOWN = re.compile(r"([\\`*_\[#|~])")
_RUNNER_COMMAND = re.compile(r"##(?=\[)")


_NAMES = "(?:token|key|apikey|password|passwd|pwd|secret|sig|signature|auth|credential)"
_SECRETS = (
    (re.compile(r"(?<=://)[^\s'\"<>]*@"), "***@"),
    (re.compile(rf"(?i)([?&;](?:[\w-]*[-_])?{_NAMES}=)[^&;#\s'\"]+"), r"\1***"),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"),
    (re.compile(r"(?i)(\bauthorization:?\s*(?:bearer|basic)\s+)\S+"), r"\1***"),
)
"""User and password in the address of a Hub, tokens in its query, the Hub's own tokens."""


def masked(text: str) -> str:
    """`text` without passwords and tokens: addresses come into messages from the environment."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def plain(text: object) -> str:
    """`text` on one line, with what a terminal would obey (control, escape, bidi) written out."""
    told = str(text)
    if told.isprintable():
        return told
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in told)


def markdown(text: object) -> str:
    """`text` as words in a Markdown table or paragraph: no markup, no HTML, no new cell or line."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", safe)


def github_line(text: object) -> str:
    """A line of a GitHub Actions log that the runner takes for no command.

    The runner reads `::command` at a line's start and the older `##[command]` anywhere in it.
    """
    safe = _RUNNER_COMMAND.sub("# #", plain(text))
    return f" {safe}".replace(" ::", " : :", 1) if safe.lstrip().startswith("::") else safe


def github_message(text: str) -> str:
    """The message of a workflow command: as actions/toolkit escapes it."""
    lines = "\n".join(_RUNNER_COMMAND.sub("# #", plain(line)) for line in text.split("\n"))
    return lines.replace("%", "%25").replace("\n", "%0A")


def github_property(text: str) -> str:
    """The value of a property of a workflow command, such as its title."""
    return github_message(plain(text)).replace(":", "%3A").replace(",", "%2C")


def xml(text: object) -> str:
    """`text` with only characters that XML 1.0 can hold; the writer escapes the rest."""
    return "\n".join(plain(line) for line in str(text).split("\n"))
