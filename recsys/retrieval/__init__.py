"""Candidate sources: each answers from a history alone. One file a source; `recsys.retrieval.wiring` lists them."""
