"""What the HTTP calls mean, free of any web framework: schemas, handlers and problem documents."""
