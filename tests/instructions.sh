#!/usr/bin/env bash
# Counts the instructions of the hot functions (benches/instructions.rs) with callgrind, and compares them with
# tests/instructions.txt. Times change with the machine and with what else runs there; counts do not.
#
#   tests/instructions.sh            fails where a function takes more than MARGIN % of what it took
#   tests/instructions.sh --update   writes what it takes now
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/lib.sh

# Compilers and C libraries differ by less; a function that reads its input twice by more.
MARGIN=130
counts=tests/instructions.txt

command -v valgrind >/dev/null || install_packages valgrind

# Our own code optimized, on top of the dependencies of the tests as they are: another profile would build all of those
# again, which takes minutes. Theirs are counted as well, and more of them than in a release: it is the change of a count
# that says something, not the number.
program=$(cargo build --locked --quiet --example instructions --message-format=json \
    --config 'profile.dev.opt-level=2' --config 'profile.dev.debug-assertions=false' \
    --config 'profile.dev.overflow-checks=false' --config 'profile.dev.package."*".opt-level=0' \
    --config 'profile.dev.package."*".debug-assertions=true' \
    --config 'profile.dev.package."*".overflow-checks=true' |
    sed -n 's|.*"executable":"\([^"]*/instructions[^"]*\)".*|\1|p')

# Lines of a name and the instructions of one call.
count() {
    local name calls out=$target/instructions.callgrind
    while read -r name calls; do
        valgrind --quiet --tool=callgrind --toggle-collect='*counted*' --callgrind-out-file="$out" "$program" "$name"
        awk -v name="$name" -v calls="$calls" '$1 == "totals:" { print name, int($2 / calls) }' "$out"
    done < <("$program" list)
}

now=$(count)
if [[ ${1-} == --update ]]; then
    {
        echo "# Instructions of one call, by tests/instructions.sh --update; see there."
        echo "# $(rustc --version), $(valgrind --version)"
        echo "$now"
    } >$counts
    cat $counts
    exit
fi

awk -v margin=$MARGIN '
    /^#/ { next }
    FNR == NR { before[$1] = $2; next }
    !($1 in before) { printf "%s: %d instructions, and none committed\n", $1, $2; bad = 1; next }
    {
        percent = 100 * $2 / before[$1]
        verdict = percent > margin ? "TOO MANY" : percent < 10000 / margin ? "fewer: commit that" : "as before"
        printf "%-34s %9d instructions, %9d before: %3d %%, %s\n", $1, $2, before[$1], percent, verdict
        bad = bad || percent > margin || $2 == 0
        delete before[$1]
    }
    END {
        for (name in before) { printf "%s: committed, and not counted any more\n", name; bad = 1 }
        exit bad
    }
' $counts <(echo "$now") || {
    echo "instructions: find what became dearer (valgrind --tool=callgrind --toggle-collect='*counted*' $program NAME," \
        "then callgrind_annotate). If it is worth that, or rustc is not that of $counts: tests/instructions.sh --update" >&2
    exit 1
}
