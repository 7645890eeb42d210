"""The page `/docs`: Swagger UI over `/openapi.json`. Its files come from a package, not the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGE = "flask_openapi3_swagger"
"""The wheel that ships Swagger UI's files; its code, which belongs to a framework of its own, is not imported."""
ASSETS = {"swagger-ui.css": "css", "swagger-ui-bundle.js": "js"}
"""The files that the page loads, and the folders that they are in."""
HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Shelftalk: HTTP calls</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="calls"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({ url: "openapi.json", dom_id: "#calls", deepLinking: true, validatorUrl: null });
</script>
</body>
</html>
"""


def folder() -> Path:
    """Where Swagger UI's files are installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: it has the files of /docs")
    return Path(found.submodule_search_locations[0]) / "templates" / "swagger"
