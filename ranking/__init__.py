"""From candidates and features to an order."""
