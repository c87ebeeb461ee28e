"""A third-party enricher: tags of nodes and images from a CMDB."""
