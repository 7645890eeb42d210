"""`recsys bundles ...`: what there is in a bundle folder, and which version answers."""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = click.Path(file_okay=False, path_type=Path)
BUNDLE = click.option("--bundle", type=FOLDER, required=True, help="Folder of model versions.")
_version = click.argument("version", required=False)


@click.group()
def bundles() -> None:
    """Look at model versions, and choose the one that answers."""


@bundles.command("list")
@BUNDLE
def list_(bundle: Path) -> None:
    """One line a version, oldest first; * marks the promoted one."""
    from recsys.versions import list_versions

    for found in list_versions(bundle):
        mark = "*" if found.is_current else " "
        facts = (
            found.problem or f"{found.created_at}  shelftalk {found.product_version}  {found.num_bytes / 2**20:.1f} MiB"
        )
        click.echo(f"{mark} {found.version}  {facts}")


@bundles.command()
@BUNDLE
@_version
def show(bundle: Path, version: str | None) -> None:
    """The manifest of VERSION (default: the promoted one), without its list of files."""
    from recsys.versions import show

    manifest = show(bundle, version)
    click.echo(json.dumps(manifest | {"files": len(manifest["files"])}, ensure_ascii=False, indent=1))


@bundles.command()
@BUNDLE
@click.argument("first")
@click.argument("second")
def compare(bundle: Path, first: str, second: str) -> None:
    """What differs between two versions: settings, metrics, data."""
    from recsys.versions import compare

    for key, (a, b) in compare(bundle, first, second).items():
        click.echo(f"{key}: {json.dumps(a, ensure_ascii=False)} -> {json.dumps(b, ensure_ascii=False)}")


@bundles.command()
@BUNDLE
@_version
def verify(bundle: Path, version: str | None) -> None:
    """Check every file of VERSION (default: the promoted one)."""
    from recsys.versions import verify

    click.echo(f"{verify(bundle, version)} is whole")


@bundles.command()
@BUNDLE
@click.argument("version")
def promote(bundle: Path, version: str) -> None:
    """Verify VERSION and let it answer from now on."""
    from recsys.versions import promote

    promote(bundle, version)
    click.echo(f"{version} is promoted")


@bundles.command()
@BUNDLE
def rollback(bundle: Path) -> None:
    """Go back to the version that was promoted before."""
    from recsys.versions import rollback

    click.echo(f"back to {rollback(bundle)}")
