#!/usr/bin/env bash
# Builds the Debian package of this checkout, for this release of Debian or newer, and prints its path:
#
#   build.sh             kfwatch VERSION-1, with the VERSION of Cargo.toml
#   build.sh VERSION     with this version of the package, for example 0.1.0-2
#
# Needs Rust, a C compiler and dpkg-dev. Installs cargo-deb into the target directory if it is missing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
crate_version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
version=${1:-$crate_version-1}
target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR=$target PATH=$target/tools/bin:$PATH
# dpkg-shlibdeps finds the libraries that the package depends on, and their versions.
command -v dpkg-shlibdeps >/dev/null || {
    echo "build.sh: dpkg-shlibdeps is missing: install the package dpkg-dev" >&2
    exit 1
}
command -v cargo-deb >/dev/null || cargo install cargo-deb --version "^3" --locked --root "$target/tools" >&2

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
KFWATCH_REVISION=$revision cargo build --profile dist --locked --bin kfwatch >&2
kfwatch=$target/dist/kfwatch

# Manual pages and completions, which the program generates.
parts=$target/dist/debian
rm -rf "$parts"
mkdir -p "$parts/completions"
"$kfwatch" man "$parts/man"
gzip -9n "$parts/man"/*
"$kfwatch" completions bash >"$parts/completions/kfwatch"
"$kfwatch" completions zsh >"$parts/completions/_kfwatch"
"$kfwatch" completions fish >"$parts/completions/kfwatch.fish"
gzip -9n <CHANGELOG.md >"$parts/changelog.gz"
date=$(git log -1 --format=%aD 2>/dev/null || date --rfc-email)
gzip -9n >"$parts/changelog.Debian.gz" <<EOF
kfwatch ($version) stable; urgency=medium

  * What changed is in changelog.gz. The source is revision
    $revision.

 -- The kfwatch authors <kfwatch@users.noreply.github.com>  $date
EOF

# cargo-deb would build again, without the revision.
cargo deb --no-build --profile dist --locked --quiet --deb-version "$version" --output "$target/debian/"
