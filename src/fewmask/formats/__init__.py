"""Reads the formats of other programs: JSON and XML within limits, run-length codes, polygons.

The modules here know no domain.
"""
