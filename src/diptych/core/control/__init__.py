"""The `ControlPlane` machine: requests, routes, the fleet, and the estates of its dead."""

from diptych.core.control.machine import ControlPlane

__all__ = ["ControlPlane"]
