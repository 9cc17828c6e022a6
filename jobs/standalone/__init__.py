"""The local stack's servers: real PostgreSQL, Valkey and S3 from wheels, no Docker."""

from jobs.standalone.ports import PortInUseError
from jobs.standalone.postgres import RootError
from jobs.standalone.servers import Servers, ServerStartError

__all__ = ["PortInUseError", "RootError", "ServerStartError", "Servers"]
