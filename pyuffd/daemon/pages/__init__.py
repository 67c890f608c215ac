"""Pages that are on another host: the protocol of CRIU's page server, its client, and a server."""
