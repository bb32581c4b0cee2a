"""A server of many live streams and files: batches across streams, and the protocols of clients that exist."""
