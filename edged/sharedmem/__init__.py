"""Memory that the daemon shares with clients on its host."""
