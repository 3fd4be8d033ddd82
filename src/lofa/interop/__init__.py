"""Reading what the published implementation of the method wrote."""

from lofa.interop import reference

__all__ = ["reference"]
