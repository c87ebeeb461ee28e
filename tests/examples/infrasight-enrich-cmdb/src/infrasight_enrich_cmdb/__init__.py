"""An enricher of somebody else's: what a CMDB says of nodes and images, as tags."""
