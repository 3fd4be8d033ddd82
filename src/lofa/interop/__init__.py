"""Reading what the published implementation of the method wrote."""

from lofa.interop import reference

__all__ = ["PREFIX", "reference"]

PREFIX = "reference:"
"""Before a folder of the published implementation, where a folder of our own could stand as well."""
