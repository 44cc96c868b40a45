"""How people reach it: the command line and the HTTP API. Nothing imports this package."""
