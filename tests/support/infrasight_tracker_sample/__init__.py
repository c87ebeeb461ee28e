"""A third-party enricher with a kernel program; it uses only what `infrasight_core` exports."""
