#!/bin/sh
# Instructions and allocations of single steps (benches/micro.rs), counted by valgrind: the same on every run.
#
#   bench/micro.sh                all cases
#   bench/micro.sh ring-ketama …  these
#   MICRO=PATH bench/micro.sh     of a program built before, to compare two builds
#
# Needs valgrind. A figure is the difference of two runs over the difference of their repetitions, which leaves out
# start and setting up.
set -eu
[ -z "${MICRO:-}" ] || MICRO=$(realpath "$MICRO")
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "micro: valgrind is not installed" >&2; exit 1; }
few=1000 many=3000

if [ -z "${MICRO:-}" ]; then
    MICRO=$(cargo bench --locked --bench micro --no-run --message-format json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\/micro-[^"\/]*\)".*/\1/p' | tail -n 1)
fi

# What one run of case $1 with $2 repetitions took in all.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$MICRO" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
allocations() {
    valgrind --tool=dhat --dhat-out-file=/dev/null "$MICRO" "$1" "$2" 2>&1 |
        sed -n 's/.*Total: .* in \([0-9,]*\) blocks.*/\1/p' | tr -d ,
}
each() {
    awk -v less="$1" -v more="$2" -v steps=$((many - few)) 'BEGIN { printf "%.2f", (more - less) / steps }'
}

echo "| case | instructions | allocations |"
echo "|---|---:|---:|"
for name in ${*:-$("$MICRO")}; do
    i=$(each "$(instructions "$name" $few)" "$(instructions "$name" $many)")
    a=$(each "$(allocations "$name" $few)" "$(allocations "$name" $many)")
    echo "| $name | $i | $a |"
done
