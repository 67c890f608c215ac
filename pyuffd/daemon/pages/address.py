"""Where a page server is, and how the connection to it is secured. The options have the names that CRIU gives them."""

import argparse
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("pyuffd.criu")


@dataclass(frozen=True)
class Tls:
    """What TLS needs.

    Attributes:
        ca: The certificates of those who sign; None takes the system's.
        crl: The certificates that are revoked; None is none.
        cert: The certificate of this end.
        key: Its private key.
        verify_name: Whether the server's name must be that of its certificate.
    """

    ca: Path | None
    crl: Path | None
    cert: Path | None
    key: Path | None
    verify_name: bool

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Make the context of one end. Both ends show a certificate, as CRIU's do.

        Raises:
            ValueError: A file is missing, or holds something else.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
            else:
                context.load_default_certs(ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH)
            if self.crl:
                context.load_verify_locations(self.crl)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(each) for each in (self.ca, self.crl, self.cert, self.key) if each)
            raise ValueError(f"--tls cannot use {files}: {error}") from None
        context.check_hostname = self.verify_name and not server
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class PageServer:
    """A page server's address.

    Attributes:
        host: Its name or address.
        port: Its TCP port.
        tls: None for a connection in the clear.
        connections: How many connections there may be. That of ``criu dump --lazy-pages`` admits one.
        timeout: Seconds after which a server that does not answer has failed.
    """

    host: str
    port: int
    tls: Tls | None = None
    connections: int = 1
    timeout: float = 30.0


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the options of a client."""
    parser.add_argument(
        "--page-server", action="store_true", help="take pages from the page server at --address, --port"
    )
    parser.add_argument("--address", metavar="HOST", help="of the page server")
    parser.add_argument("--port", type=port, metavar="PORT", help="of the page server")
    parser.add_argument(
        "--connections", type=int, default=1, metavar="N",
        help="connections to the page server; that of CRIU admits one (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--answer-timeout", type=float, default=30.0, metavar="SECONDS",
        help="after which a page server that does not answer has failed (default: 30)",
    )  # fmt: skip
    add_tls(parser)


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add the options of TLS."""
    parser.add_argument("--tls", action="store_true", help="secure the connection by TLS")
    parser.add_argument("--tls-cacert", type=Path, metavar="FILE", help="certificates of those who sign (default: the "
                        "system's)")  # fmt: skip
    parser.add_argument("--tls-cacrl", type=Path, metavar="FILE", help="certificates that are revoked")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="the certificate of this end")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--tls-no-cn-verify", action="store_true", help="accept a certificate of another name")


def address_of(parsed: Any) -> PageServer | None:
    """Return the page server that was asked for.

    Raises:
        ValueError: An option is missing.
    """
    if not parsed.page_server:
        _tell_unused(parsed, "--page-server", ("address", "port"))
        return None
    if not parsed.address or not parsed.port:
        raise ValueError("--page-server needs --address and --port, those of the page server")
    if parsed.connections < 1:
        raise ValueError(f"--connections is {parsed.connections}; it must be at least 1")
    if not 0 < parsed.answer_timeout < float("inf"):
        raise ValueError(f"--answer-timeout is {parsed.answer_timeout}; it must be a number of seconds")
    return PageServer(parsed.address, parsed.port, tls_of(parsed), parsed.connections, parsed.answer_timeout)


def tls_of(parsed: Any) -> Tls | None:
    """Return what TLS needs, if it was asked for."""
    if not parsed.tls:
        _tell_unused(parsed, "--tls", ("tls_cacert", "tls_cacrl", "tls_cert", "tls_key", "tls_no_cn_verify"))
        return None
    return Tls(parsed.tls_cacert, parsed.tls_cacrl, parsed.tls_cert, parsed.tls_key, not parsed.tls_no_cn_verify)


def _tell_unused(parsed: Any, needed: str, names: Sequence[str]) -> None:
    """Tell of options that do nothing. CRIU takes them without a word, so scripts may have them."""
    for name in names:
        if getattr(parsed, name):
            log.warning("--%s does nothing without %s", name.replace("_", "-"), needed)


def port(text: str) -> int:
    """Return the number of a TCP port; 0 lets the kernel choose one."""
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise argparse.ArgumentTypeError(f"{number} is no port: it must be between 0 and 65535")
    return number
