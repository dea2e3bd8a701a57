# Checks that the files of the Debian package exist in the repository, and that its scripts are valid shell.
# tests/deploy/long/debian.sh builds and installs the package.
. tests/lib.sh

"$venv/bin/python" - <<'EOF'
import glob
import tomllib

with open("Cargo.toml", "rb") as file:
    deb = tomllib.load(file)["package"]["metadata"]["deb"]
sources = [asset[0] for asset in deb["assets"]] + [deb["license-file"][0], deb["systemd-units"]["unit-scripts"] + "/*.service"]
# Built files do not exist yet.
missing = [source for source in sources if not source.startswith("target/") and not glob.glob(source)]
assert not missing, f"not in the repository: {missing}"
print(f"{len(sources)} sources of the package")
EOF
for script in deploy/debian/postinst deploy/debian/postrm; do
    sh -n "$script"
    grep --quiet --line-regexp '#DEBHELPER#' "$script"
done
