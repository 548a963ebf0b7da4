"""What every daemon, tool and client of this project shares: wire protocol, options, HTTP server, logging."""
