#!/usr/bin/env bash
# Fetches axe-core for the browser tests, and takes it only where it is the very file that they were written with.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=4.14.1
sha256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
folder="${CARGO_TARGET_DIR:-target}/axe"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
npm pack --silent "axe-core@$version" > /dev/null
tar -xzf "axe-core-$version.tgz" package/axe.min.js
echo "$sha256  package/axe.min.js" | sha256sum --check --quiet
mv package/axe.min.js "$folder/axe.min.js"
echo "$folder/axe.min.js"
