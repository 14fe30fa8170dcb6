"""What other programs write: JSON and XML within limits, run-length codes, polygons. Nothing here knows a domain."""
