"""Redis Cluster and Sentinel as a source: one connection that reads from many nodes."""
