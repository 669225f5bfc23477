"""Pages between hosts over TCP."""

from diptych.transport.tcp.reader import ReaderOptions
from diptych.transport.tcp.transport import TcpTransport

__all__ = ["ReaderOptions", "TcpTransport"]
