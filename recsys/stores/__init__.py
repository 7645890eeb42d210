"""What a running service keeps: events, items that were put, users to be forgotten. SQLite, or PostgreSQL by URL."""
