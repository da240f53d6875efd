"""What goes wrong between here and a device, in a sentence, with what to do about it."""

from __future__ import annotations

import asyncio
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from ..errors import DeploymentError, ExpertcError, UsageError
from ..text import clean_text, shortened, shown
from .address import Address

_FULL = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_SHORT = 120  # characters of what a library says


_KNOWN = Path("~/.ssh/known_hosts")


@dataclass
class Offered(asyncssh.SSHClient):
    """Hears which key a host has that is not trusted, and never trusts it.

    ``place`` is where keys are looked up, ``host`` and ``port`` what the configuration makes of the device's name.
    """

    place: Path = _KNOWN
    key: asyncssh.SSHKey | None = field(default=None)
    host: str = ""
    port: int = 0

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Keep the key for the complaint."""
        self.key, self.host, self.port = key, host, port
        return False


@contextmanager
def reported(address: Address, doing: str = "", offered: Offered | None = None) -> Iterator[None]:
    """Turn what SSH, SFTP and the network raise into ``DeploymentError``, or ``UsageError`` for a wrong configuration.

    ``doing`` says what was being done; ``offered``, while a connection is made, heard the key of the host.
    """
    try:
        yield
    except ExpertcError:
        raise
    except asyncssh.HostKeyNotVerifiable as error:
        raise _stranger(address, offered or Offered()) from error
    except asyncssh.PermissionDenied as error:
        where = _command(address)
        raise DeploymentError(
            f"{address.given} does not let us log in.",
            f"Try '{where} true'; 'ssh-copy-id{where[3:]}' installs a key, 'ssh-add' gives one to the agent.",
        ) from error
    except _FULL as error:
        raise DeploymentError(f"The disk of {address.given} is full, {doing}.", "Free some space there.") from error
    except asyncssh.SFTPPermissionDenied as error:
        raise DeploymentError(f"{address.given} forbids {doing}.", "Check the owner of that folder.") from error
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
        raise broken(address) from error
    except asyncssh.SFTPError as error:  # version 3 of the protocol has no word for a full disk
        why = shortened(clean_text(error.reason), _SHORT)
        raise DeploymentError(
            f"{address.given} refuses, {doing}: {why}.", f"Is its disk full? '{_command(address)} df -h .' shows it."
        ) from error
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        why = shortened(clean_text(str(error)), _SHORT)
        raise UsageError(f"The SSH configuration or key for {address.given} cannot be used: {why}.", _AGENT) from error
    except ValueError as error:  # of a line that OpenSSH passes over, or a byte that is no text
        if offered is None:
            raise
        raise UsageError(
            f"{offered.place}, where the key of {address.given} is looked up, cannot be read:"
            f" {shortened(clean_text(str(error)), _SHORT)}.",
            "Mend or remove that line.",
        ) from error
    except (asyncssh.ConnectionLost, BrokenPipeError, ConnectionResetError) as error:
        raise broken(address) from error
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise DeploymentError(f"{address.given} does not answer.", "Is it on, and in this network?") from error
    except socket.gaierror as error:
        raise DeploymentError(f"There is no host {shown(address.host)}.", "Check its name.") from error
    except (asyncssh.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        why = shortened(clean_text(reason or str(error) or type(error).__name__), _SHORT)
        raise DeploymentError(
            f"{address.given} cannot be reached: {why}.", f"Try '{_command(address)} true'."
        ) from error


def broken(address: Address) -> DeploymentError:
    """The error for a connection that was there, and is not any more."""
    return DeploymentError(f"The connection to {address.given} broke off.", "Deploy again: it goes on where it was.")


_AGENT = "A key with a passphrase is used through an agent: 'ssh-add KEY'."


def _stranger(address: Address, offered: Offered) -> DeploymentError:
    """What to do about a host whose key is not known, or is another one than that which is."""
    place, key = offered.place, offered.key
    if key is None:  # the device itself was not asked yet
        return DeploymentError(
            f"The key of a host on the way to {address.given} is not trusted.",
            f"'{_command(address)} true' names it: see to {place}.",
        )
    plain = offered.port in (0, 22)
    named = offered.host if plain else f"[{offered.host}]:{offered.port}"
    print_ = f" ({key.get_algorithm()} {key.get_fingerprint()})"
    if _listed(place.expanduser(), offered.host, offered.port):
        return DeploymentError(
            f"The key of {address.given}{print_} is not the one in {place}: another machine may be answering.",
            f"Only if the device was set up anew: 'ssh-keygen -R {shlex.quote(named)} -f {place}', then deploy again.",
        )
    port = "" if plain else f" -p {offered.port}"
    return DeploymentError(
        f"The key of {address.given}{print_} is not in {place}.",
        f"Compare it with the device's own ('ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' there), then"
        f" '{_command(address)}' once, or 'ssh-keyscan{port} {shlex.quote(offered.host)} >> {place}'.",
    )


def _listed(place: Path, host: str, port: int) -> bool:
    """Whether any key of the host is known."""
    if not place.is_file():
        return False
    try:
        found = asyncssh.match_known_hosts(str(place), host, "", port)
    except (OSError, ValueError):
        return False
    return any(found[:2])


def _command(address: Address) -> str:
    """How a person would log in."""
    user = f"{address.user}@" if address.user else ""
    port = f" -p {address.port}" if address.port else ""
    return f"ssh{port} {shlex.quote(user + address.host)}"
