"""What keys a server holds: all of them counted, or a random sample, without reading one value."""
