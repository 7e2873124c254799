"""What h11 lets pass and a proxy in front of us may read in another way (RFC 9112, 11.2).

Two readers that disagree on where a request ends can be made to take one client's bytes for
another's request. So what a recipient may repair or refuse is refused.
"""

from __future__ import annotations

import re

from overlay.http.refusal import Refused

_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_FOLDED = re.compile(rb"\n[ \t]")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH = re.compile(rb"\ncontent-length[ \t]*:([^\r\n]*)", re.IGNORECASE)
_CODING = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)


def check_head(raw: bytes, http_version: bytes) -> None:
    """Checks a request's head as it came.

    Raises:
        Refused: 400, saying what about it can be read in two ways.
    """
    check_lines(raw)
    lengths = _LENGTH.findall(raw)
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise _refused("more than one Content-Length")
    coded = _CODING.search(raw) is not None
    if coded and lengths:
        raise _refused("Content-Length and Transfer-Encoding contradict each other")
    if coded and http_version < b"1.1":
        raise _refused("Transfer-Encoding is not for HTTP/1.0")


def check_lines(raw: bytes) -> None:
    """Checks the lines of a head, or of what follows the last chunk.

    Raises:
        Refused: 400.
    """
    if _BARE_LINE_FEED.search(raw):
        raise _refused("a line that ends without a carriage return")
    if _FOLDED.search(raw):
        raise _refused("a header that is folded over several lines")
    if _CONTROL.search(raw):
        raise _refused("a control character in the head")


def _refused(what: str) -> Refused:
    return Refused(400, "malformed_request", f"malformed HTTP request: {what}")
