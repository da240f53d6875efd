"""Where a device is: ``user@host``, with a port if it is not that of the SSH configuration."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ..errors import UsageError
from ..text import shown

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_SIXTH = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,15})?")
_HINT = "Write user@host, host:port or user@[2001:db8::1]:22; host may be a name from ~/.ssh/config."


@dataclass(frozen=True)
class Address:
    """A device's address as it was ``given``; what is None is as the SSH configuration says."""

    given: str
    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ``UsageError`` for anything but ``[USER@]HOST[:PORT]``; an IPv6 address with a port is in brackets."""
        user, separator, place = text.rpartition("@")
        bracketed = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?", place)
        plain = re.fullmatch(r"([^:]*)(?::([0-9]{1,5}))?", place)
        host, port = (bracketed or plain or re.match("(.*)()", place)).groups()  # type: ignore[union-attr]
        fits = _SIXTH.fullmatch(host) if bracketed or ":" in host else _HOST.fullmatch(host)
        if not fits or (separator and not _USER.fullmatch(user)) or (port and not 0 < int(port) < 2**16):
            raise UsageError(f"{shown(text)} is not the address of a device.", _HINT)
        return cls(text, host, user or None, int(port) if port else None)


_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def can_listen(host: str) -> bool:
    """Whether a service could listen on ``host``: an IP address, or a name as RFC 1123 has them."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and not host.isdecimal() and all(map(_LABEL.fullmatch, host.split(".")))
    return True
