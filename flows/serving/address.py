"""Where a server listens, and where it is found.

In: host and port.
Out: URLs for this machine's clients.
Promise: an address for all interfaces is reached by loopback.
Never: looks anything up.
"""

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Host and port of a server."""

    port: int
    host: str = LOOPBACK

    @property
    def api_url(self) -> str:
        """What $PREFECT_API_URL has to be on this machine."""
        return f"{self.ui_url}/api"

    @property
    def ui_url(self) -> str:
        """The page to open in a browser on this machine."""
        return f"http://{LOOPBACK if self.host == '0.0.0.0' else self.host}:{self.port}"
