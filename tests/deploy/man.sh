# Checks that the real man formats the manual pages without a warning, and that the shells can read the completions.
. tests/lib.sh
install_packages man-db groff-base

work=$(mktemp -d "$target/man.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$target/debug/kfwatch" man "$work"
for page in "$work"/*.1; do
    LC_ALL=C.UTF-8 man --warnings --encoding=UTF-8 --local-file "$page" >"$work/text" 2>"$work/warnings"
    [[ -s $work/text && ! -s $work/warnings ]] || {
        echo "man.sh: ${page##*/}: $(cat "$work/warnings")" >&2
        exit 1
    }
done
echo "$(find "$work" -name '*.1' | wc -l) pages"

"$target/debug/kfwatch" completions bash >"$work/kfwatch.bash"
bash -euo pipefail -c '
    source "$1"
    COMP_WORDS=(kfwatch ev) COMP_CWORD=1
    _kfwatch kfwatch ev kfwatch
    [[ ${COMPREPLY[*]} == events ]]
' - "$work/kfwatch.bash"
