"""What is known about users, items and pairs of them: tables, histories, text embeddings and ranking features."""
