"""The HTTP server and application: routes, bodies, streams, keys, metrics. Knows no dialect."""
